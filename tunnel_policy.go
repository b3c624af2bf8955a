package egress

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains the list of a handler's tunnels, and how those end that new
// access rules forbid.

// tunnelPolicy is what decides, under one configuration, which tunnels may go on,
// and for how long when the handler is gone.
type tunnelPolicy struct {
	// forbids reports whether the rules, as they are now, forbid a tunnel to a
	// destination that is connected to an address. Through an upstream the address is
	// not known, and not valid. It is nil where tunnels are kept whatever the rules say.
	forbids func(target.Target, netip.Addr) bool

	closeDelay time.Duration // from when its handler is gone
	handler    string        // its identity, for the log
	logger     *zap.Logger   // of the rules
}

// followRules lets the access rules follow their files, and the tunnels the rules.
func (h *Handler) followRules(caddy.Context) error {
	live := &h.tunnels.Value.live
	p := &tunnelPolicy{
		forbids:    forbiddenTunnels(h.dialer.Dialer, h.tunnel.OnPolicyChange),
		closeDelay: time.Duration(*h.tunnel.CloseDelay),
		handler:    h.place(),
		logger:     h.logger.Named("acl"),
	}
	h.tunnelPolicy, h.besides = p, activeConfig()
	live.enter(p)
	if !h.dry {
		h.access.Follow(func() { live.changed(p) })
	}
	return nil
}

// forbiddenTunnels is what tells the tunnels that the access rules forbid; nil where they
// are kept. It is asked after the tunnel was listed, for the rules of that moment.
func forbiddenTunnels(d *dial.Dialer, onChange string) func(target.Target, netip.Addr) bool {
	if onChange != policyClose {
		return nil
	}
	return func(dest target.Target, addr netip.Addr) bool {
		if addr.IsValid() {
			return d.Check(dest, addr) != nil
		}
		return d.Access.Now().CheckUnresolved(dest) != nil
	}
}

// liveTunnels are the tunnels of one handler that stand, whichever configuration
// they began under. All are listed, since a reload may turn `close` on. A tunnel
// enters when it is set up and leaves when it is closed; what it relays meets no
// lock.
type liveTunnels struct {
	logger func() *zap.Logger // of when it is called

	mu    sync.Mutex
	first *liveTunnel // guarded by mu: a doubly linked list
	count int         // guarded by mu

	// policies of the configurations that hold the book, oldest first. The
	// oldest is in force: a reload provisions the new configuration beside the
	// old one and lets that go only when the new one runs.
	policies []*tunnelPolicy // guarded by mu

	drain  *drain        // guarded by mu: nil while the tunnels may go on
	paused time.Time     // guarded by mu: when they were to end before the last configuration came; 0 if it has run
	last   time.Time     // guarded by mu: when the last tunnel went, and there was none
	empty  chan struct{} // guarded by mu: closed when the last tunnel goes; nil where nobody waits
}

// liveTunnel is a tunnel as access rules see it.
type liveTunnel struct {
	relay  *relay.Relay
	target target.Target
	addr   netip.Addr // it is connected to; invalid if through an upstream

	prev, next *liveTunnel // guarded by the mu of liveTunnels
}

// follow lists a tunnel that is about to begin, and ends it at once if the rules
// have changed since it was dialed so that they forbid it, or if the process exits
// and the time of tunnels is over.
//
// It is connected to an address, which is not that of the destination if it goes through
// an upstream. The delay is what it has left if its handler is gone already.
func (s *tunnelSlot) follow(r *relay.Relay, dest target.Target, addr netip.Addr, delay time.Duration) {
	l := &liveTunnel{relay: r, target: dest}
	l.target.Host = strings.Clone(l.target.Host) // not the request that it is cut from
	if s.upstream == nil {
		l.addr = addr
	}
	s.live = l
	p, over := s.book.live.add(l, delay)
	switch {
	case over:
		l.drain()
	case p != nil && p.ends(l):
		r.End(relay.ReasonPolicy)
	}
}

// ends reports whether a tunnel has to end. The rules are asked for after the
// tunnel was listed: new ones that come too late for that find the tunnel in the
// list.
func (p *tunnelPolicy) ends(l *liveTunnel) bool {
	return p.forbids != nil && p.forbids(l.target, l.addr)
}

// add lists a tunnel, and returns the policy that is in force, if there is one, and
// whether the tunnel is to be ended at once. Where no configuration holds the book,
// the tunnel is ended after a delay.
func (s *liveTunnels) add(l *liveTunnel, delay time.Duration) (inForce *tunnelPolicy, over bool) {
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
func (s *liveTunnels) remove(l *liveTunnel) {
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

// inForce is the policy of the running configuration. mu is held.
func (s *liveTunnels) inForce() *tunnelPolicy {
	if len(s.policies) == 0 {
		return nil
	}
	return s.policies[0]
}

// enter adds the policy of a configuration that is being provisioned.
func (s *liveTunnels) enter(p *tunnelPolicy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policies = append(s.policies, p)
	s.adopted()
}

// leave takes a policy away. If it was in force, the next one is from here on. It has
// failed if its configuration has never been the active one.
func (s *liveTunnels) leave(p *tunnelPolicy, failed bool) {
	s.mu.Lock()
	before := s.inForce()
	s.policies = slices.DeleteFunc(s.policies, func(q *tunnelPolicy) bool { return q == p })
	now := s.inForce()
	left := 0
	if before != nil && now == nil {
		left = s.abandoned(p, failed)
	}
	if !failed || now == nil {
		s.paused = time.Time{}
	}
	s.mu.Unlock()
	if left > 0 {
		s.logger().Info("handler is gone; its tunnels have a while left",
			zap.String("handler", p.handler), zap.Int("tunnels", left), zap.Duration("close_delay", p.closeDelay))
	}
	if now != before {
		s.apply(now)
	}
}

// changed tells that the rules of a policy have changed.
func (s *liveTunnels) changed(p *tunnelPolicy) {
	s.mu.Lock()
	now := s.inForce()
	s.mu.Unlock()
	if p == now {
		s.apply(p)
	}
}

// apply ends the tunnels that a policy forbids.
func (s *liveTunnels) apply(p *tunnelPolicy) {
	if p == nil || p.forbids == nil {
		return
	}
	ended := 0
	for _, l := range s.all() {
		if p.ends(l) {
			ended++
			go l.relay.End(relay.ReasonPolicy) // to close TLS can take seconds
		}
	}
	if ended > 0 {
		p.logger.Info("tunnels ended that the access rules forbid now", zap.Int("tunnels", ended))
	}
}

// all is the list as it is now: to judge many tunnels takes longer than anybody who
// opens or closes one should wait.
func (s *liveTunnels) all() []*liveTunnel {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*liveTunnel, 0, s.count)
	for l := s.first; l != nil; l = l.next {
		list = append(list, l)
	}
	return list
}
