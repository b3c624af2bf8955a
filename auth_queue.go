package egress

import (
	"context"
	"net/netip"
	"sync"
)

// This file contains the queue for slow password checks.

const (
	// maxChecksWaiting bounds the checks that wait for their turn, and
	// maxChecksPerClient those of one client address (of IPv6, one /64).
	maxChecksWaiting   = 256
	maxChecksPerClient = 64
)

// checkQueue lets few checks run at once. Clients take turns, whatever each of them
// has waiting: one that guesses passwords holds up itself, and others by one check.
type checkQueue struct {
	mu      sync.Mutex
	free    int64                 // guarded by mu: threads
	lines   map[string]*checkLine // guarded by mu: by client
	turns   []*checkLine          // guarded by mu: the same, the next one first
	waiting int                   // guarded by mu: in all lines
}

// checkLine are the waiting checks of one client. There is none without any.
type checkLine struct {
	client string
	checks []*waitingCheck
}

type waitingCheck struct {
	threads int64
	ready   chan struct{} // closed when it may run
}

// acquire waits for room for a check, until ctx ends. It refuses those for which there
// is no place to wait.
func (q *checkQueue) acquire(ctx context.Context, client string, threads int64) error {
	q.mu.Lock()
	if q.waiting == 0 && q.free >= threads {
		q.free -= threads
		q.mu.Unlock()
		return nil
	}
	line := q.lines[client]
	switch {
	case line != nil && len(line.checks) >= maxChecksPerClient:
		q.mu.Unlock()
		return failClientLogins
	case q.waiting >= maxChecksWaiting:
		q.mu.Unlock()
		return failLogins
	}
	if line == nil {
		line = &checkLine{client: client}
		q.lines[client] = line
		q.turns = append(q.turns, line)
	}
	c := &waitingCheck{threads: threads, ready: make(chan struct{})}
	line.checks = append(line.checks, c)
	q.waiting++
	q.mu.Unlock()
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-c.ready: // at the same moment
		q.free += threads
	default:
		q.leave(line, c)
	}
	q.grant()
	return ctx.Err()
}

// release ends a check.
func (q *checkQueue) release(threads int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.free += threads
	q.grant()
}

// grant lets checks run as long as there is room. q.mu is held.
func (q *checkQueue) grant() {
	for len(q.turns) > 0 {
		line := q.turns[0]
		c := line.checks[0]
		if q.free < c.threads {
			return // it is next, or checks of many threads would never be
		}
		q.free -= c.threads
		q.turns = append(q.turns[1:], line)
		q.leave(line, c)
		close(c.ready)
	}
}

// leave takes a check out of its line. q.mu is held.
func (q *checkQueue) leave(line *checkLine, c *waitingCheck) {
	line.checks = without(line.checks, c)
	q.waiting--
	if len(line.checks) == 0 {
		delete(q.lines, line.client)
		q.turns = without(q.turns, line)
	}
}

// without is list without e.
func without[E comparable](list []E, e E) []E {
	for i := range list {
		if list[i] == e {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// checkingClient is what the checks of a client are counted by: its address, of IPv6
// the network that one customer has.
func checkingClient(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	if addr = addr.Unmap(); addr.Is6() {
		network, _ := addr.WithZone("").Prefix(64) // never fails
		return network.String()
	}
	return addr.String()
}
