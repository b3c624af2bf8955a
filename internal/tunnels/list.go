package tunnels

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// List are the tunnels of one handler that stand, whichever configuration
// they began under. All are listed, since a reload may turn `close` on. A tunnel
// enters when it is set up and leaves when it is closed; what it relays meets no
// lock.
type List struct {
	logger func() *zap.Logger // of when it is called

	mu    sync.Mutex
	first *live // guarded by mu: a doubly linked list
	count int   // guarded by mu

	// policies of the configurations that hold the book, oldest first. The
	// oldest is in force: a reload provisions the new configuration beside the
	// old one and lets that go only when the new one runs.
	policies []*Policy // guarded by mu

	deadline *deadline     // guarded by mu: nil while the tunnels may go on
	paused   time.Time     // guarded by mu: when they were to end before the last configuration came; 0 if it has run
	last     time.Time     // guarded by mu: when the last tunnel went, and there was none
	empty    chan struct{} // guarded by mu: closed when the last tunnel goes; nil where nobody waits
}

// live is a tunnel as access rules see it.
type live struct {
	relay  *relay.Relay
	target target.Target
	addr   netip.Addr // it is connected to; invalid if through an upstream

	prev, next *live // guarded by the mu of List
}

// Follow lists a tunnel that is about to begin, and ends it at once if the rules
// have changed since it was dialed so that they forbid it, or if the process exits
// and the time of tunnels is over.
//
// It is connected to an address, which is not that of the destination if it goes through
// an upstream. The delay is what it has left if its handler is gone already.
func (s *Slot) Follow(r *relay.Relay, dest target.Target, addr netip.Addr, delay time.Duration) {
	l := &live{relay: r, target: dest}
	l.target.Host = strings.Clone(l.target.Host) // not the request that it is cut from
	if s.Upstream == nil {
		l.addr = addr
	}
	s.live = l
	p, over := s.book.Live.add(l, delay)
	switch {
	case over:
		l.drain()
	case p != nil && p.ends(l):
		r.End(relay.ReasonPolicy)
	}
}

// add lists a tunnel, and returns the policy that is in force, if there is one, and
// whether the tunnel is to be ended at once. Where no configuration holds the book,
// the tunnel is ended after a delay.
func (s *List) add(l *live, delay time.Duration) (inForce *Policy, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.next = s.first; l.next != nil {
		l.next.prev = l
	}
	s.first = l
	s.count++
	return s.inForce(), s.late(delay)
}

// remove takes a tunnel off the list.
func (s *List) remove(l *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		s.first = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	if s.count--; s.count == 0 {
		s.left()
	}
}

// all is the list as it is now: to judge many tunnels takes longer than anybody who
// opens or closes one should wait.
func (s *List) all() []*live {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*live, 0, s.count)
	for l := s.first; l != nil; l = l.next {
		list = append(list, l)
	}
	return list
}
