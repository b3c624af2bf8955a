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

// blockSize is how many ports a process takes at a time. It listens on the first of
// them for as long as it lives, so that no other one takes the same.
const blockSize = 500

// given are the ports of this process. None is given twice: one that is free again
// may be about to be bound by someone it was given to before.
var given struct {
	sync.Mutex
	next, end int            // of the block
	locks     []net.Listener // on the first port of each block
}

// Get returns a port that is free for TCP and UDP on 127.0.0.1, and that was not
// returned before, here or in another process that asks this package.
func Get() (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 20 * blockSize {
		if given.next == given.end {
			if err := takeBlock(); err != nil {
				return 0, err
			}
		}
		port := given.next
		given.next++
		if free(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d", first, last)
}

// takeBlock begins with ports that no other process has. given is locked.
func takeBlock() error {
	for _, n := range rand.Perm((last - first) / blockSize) {
		at := first + n*blockSize
		lock, err := net.Listen("tcp", address(at))
		if err == nil {
			given.locks = append(given.locks, lock)
			given.next, given.end = at+1, at+blockSize
			return nil
		}
	}
	return fmt.Errorf("all ports between %d and %d are taken", first, last)
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
