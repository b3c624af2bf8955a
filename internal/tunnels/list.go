package tunnels

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/orders"
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

// Asked is what is remembered of the request for a tunnel, for a later configuration to
// judge it. It holds nothing of the configuration that it came under.
type Asked struct {
	Method       string // of an exchange that was upgraded; empty for CONNECT
	Target       target.Target
	Login        *auth.Stored // what the client has proved; nil where we have asked for nothing
	Client, Peer netip.Addr   // the client, and who has connected, which may be a proxy in front
	Major, Minor uint8        // the version of HTTP
	TLS          bool         // towards us

	User string // as logs know it; empty for nobody
	Via  *Via   // the upstream that it goes through; nil for none
}

// Via is what is told of the upstream of a tunnel.
type Via struct{ Group, Upstream, ID string }

// live is a tunnel as access rules see it.
type live struct {
	id    uint64
	began time.Time
	relay *relay.Relay
	asked Asked
	addr  netip.Addr // of the destination; invalid where it is not known

	prev, next *live // guarded by the mu of List
	mark       bool  // it is no tunnel, but stands where somebody goes over the list
}

// Follow lists a tunnel that is about to begin, and ends it at once if the rules
// have changed since it was dialed so that they forbid it, or if the process exits
// and the time of tunnels is over. It was opened under a policy, which may have left the
// book meanwhile; nil is one that has.
//
// addr is the address of the destination that it leads to: that it is connected to, or that
// an upstream was told. It is not valid where an upstream was told a name. The delay is what
// it has left if its handler is gone already.
func (s *Slot) Follow(r *relay.Relay, asked Asked, addr netip.Addr, under *Policy, delay time.Duration) {
	l := &live{id: lastID.Add(1), began: time.Now(), relay: r, asked: asked, addr: addr}
	l.asked.Target.Host, l.asked.User = strings.Clone(l.asked.Target.Host), strings.Clone(l.asked.User) // not the request that they are cut from
	s.live = l
	p, late, over := s.book.Live.add(l, under, delay)
	switch {
	case over:
		l.drain()
	case orders.Of.Emergency() != nil: // since it was asked for
		r.End(relay.ReasonAdmin)
	case p != nil && (p.forbids(l) || late && p.refuses(l)):
		r.End(relay.ReasonPolicy)
	}
}

// add lists a tunnel, and returns the policy that is in force, if there is one, whether the
// one that the tunnel was opened under has left, and whether the tunnel is to be ended at
// once. Where no configuration holds the book, the tunnel is ended after a delay.
func (s *List) add(l *live, under *Policy, delay time.Duration) (inForce *Policy, late, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(l, s.first)
	s.count++
	return s.inForce(), !slices.Contains(s.policies, under), s.late(delay)
}

// remove takes a tunnel off the list.
func (s *List) remove(l *live) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlink(l)
	if s.count--; s.count == 0 {
		s.left()
	}
}

// insert puts l before another one, which is nil where the list is empty. mu is held.
func (s *List) insert(l, before *live) {
	l.prev, l.next = nil, before
	if before != nil {
		l.prev, before.prev = before.prev, l
	}
	if l.prev != nil {
		l.prev.next = l
	} else {
		s.first = l
	}
}

// unlink takes l out. mu is held.
func (s *List) unlink(l *live) {
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		s.first = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
}

// walked is how many tunnels are looked at while mu is held: to go over many takes longer
// than anybody who opens or closes one should wait.
const walked = 512

// each calls f, without mu, for the tunnels that are there now, but for those that go
// meanwhile. A mark in the list keeps the place.
func (s *List) each(f func(*live)) {
	mark, batch := &live{mark: true}, make([]*live, 0, walked)
	s.mu.Lock()
	s.insert(mark, s.first)
	for next := mark; next != nil; {
		batch = batch[:0]
		for next = mark.next; next != nil && len(batch) < walked; next = next.next {
			if !next.mark {
				batch = append(batch, next)
			}
		}
		s.unlink(mark)
		if next != nil {
			s.insert(mark, next)
		}
		s.mu.Unlock()
		for _, l := range batch {
			f(l)
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
}

// all is the list as it is now.
func (s *List) all() (list []*live) {
	s.each(func(l *live) { list = append(list, l) })
	return list
}
