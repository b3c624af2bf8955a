// Package connpool is a keyed connection pool that knows nothing of what it
// pools. It decides who gets which connection, who waits, who dials and what
// is closed; opening, checking and closing a connection is its user's part.
//
// The way of a request:
//
//	Get ─► idle connection of the key that the request takes      (host.go)
//	    └► queue, FIFO per key; with a free slot also its own dial (wait.go, dial.go)
//	          first of: a returned connection, its dial, an error
//	Lease ─► Release: the first waiter that takes it, else idle   (lease.go)
//	      └► Discard: closed; its slot starts the first waiter's dial
//
// Looking for an idle connection, joining the queue and deciding to dial are
// one critical section under the lock of the key, so that a connection coming
// back can never slip between them (the lost wake-up).
//
// # Slots
//
// A slot is the right to one connection. It is taken before the dial starts
// and given back after Close has returned, so the number of open connections
// never exceeds a limit, not even for a moment. MaxConns and MaxConnsPerKey
// count slots.
//
// # Locks
//
// There is one mutex per key (host.mu) and none for the whole pool on the way
// of a request that finds an idle connection: the map from key to host is
// sharded, and numbers that span keys are atomics. Two small locks serve rare
// cases: blockedMu (the line of keys that wait for MaxConns, touched only
// while there is one) and timerMu (the janitor's timer). The order is shard →
// nothing, host.mu → blockedMu, host.mu → timerMu; two hosts are never locked
// at once. Alive, Dial and Close are called without any lock held.
//
// Whoever changes a host ends with unlock and then after, in this order:
// unlock removes a host that has become empty, after closes what was taken
// out and serves other keys.
//
// It is an engine: of this project it imports tracing, which records how long a request
// has waited for a slot, and nothing of Caddy.
package connpool
