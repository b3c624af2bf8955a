// Package freeport finds ports for what cannot listen on port 0: programs that
// are told their port, addresses that shall refuse.
//
// A port that was free a moment ago may be taken by the time it is used. The
// kernel takes the ports of outgoing connections and of listeners on port 0 from
// a range of its own, so these ports come from below it: no connection that
// anybody makes in between occupies one, and a dial of one on which nobody
// listens cannot meet itself (which TCP allows where the source port is the
// same).
//
// It is test equipment: nothing imports it but tests, bench and soak.
package freeport
