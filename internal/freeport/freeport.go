// Package freeport finds ports for what cannot listen on port 0: programs that
// are told their port, addresses that shall refuse.
//
// A port that was free a moment ago may be taken by the time it is used. The
// kernel takes the ports of outgoing connections and of listeners on port 0 from
// a range of its own, so these ports come from below it: no connection that
// anybody makes in between occupies one, and a dial of one on which nobody
// listens cannot meet itself (which TCP allows where the source port is the
// same).
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// first and last bound the ports. The kernel's begin at 32768 on Linux and at
// 49152 elsewhere.
const first, last = 10000, 32000

// handedOut are the ports that this process has got already: one that is free
// again may be about to be bound by someone it was given to before.
var handedOut = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// Get returns a port that is free for TCP and UDP on 127.0.0.1, and that was not
// returned before.
func Get() (int, error) {
	handedOut.Lock()
	defer handedOut.Unlock()
	for range 1000 {
		port := first + rand.IntN(last-first)
		if !handedOut.ports[port] && free(port) {
			handedOut.ports[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d", first, last)
}

// Addr is Get as an address of 127.0.0.1.
func Addr() (string, error) {
	port, err := Get()
	if err != nil {
		return "", err
	}
	return address(port), nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func free(port int) bool {
	ln, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	defer ln.Close()
	pc, err := net.ListenPacket("udp", address(port))
	if err != nil {
		return false
	}
	defer pc.Close()
	return true
}
