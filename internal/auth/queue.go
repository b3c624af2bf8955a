package auth

import (
	"context"
	"net/netip"
	"sync"

	"github.com/caddy-egress/egress/internal/failure"
)

// This file contains the queue for slow password checks.

// maxChecksWaiting bounds the checks that wait for their turn.
const maxChecksWaiting = 256

// checkQueue lets few checks run at once. Clients take turns, whatever each of them
// has waiting: one that guesses passwords holds up itself, and others by one check.
// When no more may wait, the one that has most of them waiting gives up a place.
type checkQueue struct {
	mu       sync.Mutex
	free     int64                          // guarded by mu: threads
	networks map[netip.Prefix]*checkNetwork // guarded by mu: those with waiting checks
	turns    []*checkNetwork                // guarded by mu: the same, the next one first
	waiting  int                            // guarded by mu: in all lines
}

// checkNetwork are the waiting checks of what may be one customer: an IPv4 address, or
// an IPv6 network of the largest size that customers have.
type checkNetwork struct {
	network netip.Prefix
	lines   []*checkLine // the next one first; none is empty
	waiting int          // in all of them
}

// checkLine are the waiting checks of one client.
type checkLine struct {
	client netip.Prefix
	checks []*waitingCheck
}

type waitingCheck struct {
	threads int64
	ready   chan struct{} // closed when it may run, or must not
	refused error         // set before ready is closed
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
	network, line := checkingClient(client)
	if q.waiting >= maxChecksWaiting {
		if err := q.makePlace(network, line); err != nil {
			q.mu.Unlock()
			return err
		}
	}
	c := &waitingCheck{threads: threads, ready: make(chan struct{})}
	q.join(network, line, c)
	q.mu.Unlock()
	select {
	case <-c.ready:
		return c.refused
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-c.ready: // at the same moment
		if c.refused == nil {
			q.free += threads
		}
	default:
		n := q.networks[network]
		q.leave(n, n.line(line), c)
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
		n := q.turns[0]
		line := n.lines[0]
		c := line.checks[0]
		if q.free < c.threads {
			return // it is next, or checks of many threads would never be
		}
		q.free -= c.threads
		q.turns = append(q.turns[1:], n)
		n.lines = append(n.lines[1:], line)
		q.leave(n, line, c)
		close(c.ready)
	}
}

// makePlace pushes out the check that came last of whoever has most waiting, if that
// is not the newcomer itself: of networks, and in the network of clients. q.mu is held.
func (q *checkQueue) makePlace(network, client netip.Prefix) error {
	own := q.networks[network]
	mine, from := own.len(), own
	for _, n := range q.turns {
		if n.waiting > from.len() {
			from = n
		}
	}
	had := 0
	if from.waiting <= mine+1 {
		if mine == 0 {
			return failure.Logins
		}
		from, had = own, own.line(client).len()+1
	}
	var longest *checkLine
	for _, l := range from.lines {
		if l.len() > max(had, longest.len()) {
			longest = l
		}
	}
	if longest == nil {
		return failure.ClientLogins
	}
	last := longest.checks[len(longest.checks)-1]
	last.refused = failure.ClientLogins
	q.leave(from, longest, last)
	close(last.ready)
	return nil
}

// join puts a check at the end of the line of its client. q.mu is held.
func (q *checkQueue) join(network, client netip.Prefix, c *waitingCheck) {
	n := q.networks[network]
	if n == nil {
		n = &checkNetwork{network: network}
		q.networks[network] = n
		q.turns = append(q.turns, n)
	}
	line := n.line(client)
	if line == nil {
		line = &checkLine{client: client}
		n.lines = append(n.lines, line)
	}
	line.checks = append(line.checks, c)
	n.waiting++
	q.waiting++
}

// leave takes a check out of its line. q.mu is held.
func (q *checkQueue) leave(n *checkNetwork, line *checkLine, c *waitingCheck) {
	line.checks = without(line.checks, c)
	if len(line.checks) == 0 {
		n.lines = without(n.lines, line)
	}
	q.waiting--
	if n.waiting--; n.waiting == 0 {
		delete(q.networks, n.network)
		q.turns = without(q.turns, n)
	}
}

func (n *checkNetwork) len() int {
	if n == nil {
		return 0
	}
	return n.waiting
}

// line is that of a client, nil if it has none.
func (n *checkNetwork) line(client netip.Prefix) *checkLine {
	if n == nil {
		return nil
	}
	for _, l := range n.lines {
		if l.client == client {
			return l
		}
	}
	return nil
}

func (l *checkLine) len() int {
	if l == nil {
		return 0
	}
	return len(l.checks)
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

// checkingClient is what the checks of a client are counted by: its address; of IPv6
// the networks that customers have, which are of a /64 up to a /48. Clients without an
// address, those of unix sockets, are one.
func checkingClient(ip string) (network, client netip.Prefix) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return netip.Prefix{}, netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		client = netip.PrefixFrom(addr, addr.BitLen())
		return client, client
	}
	network, _ = addr.Prefix(48) // never fails
	client, _ = addr.Prefix(56)
	return network, client
}
