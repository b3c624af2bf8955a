package tunnels

import (
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// Policy is what decides, under one configuration, which tunnels may go on,
// and for how long when the handler is gone.
// It is not changed once it has entered.
type Policy struct {
	// Forbids reports whether the rules, as they are now, forbid a tunnel to a
	// destination that leads to an address. Where an upstream was told a name, the address is
	// not known, and not valid. It is nil where tunnels are kept whatever the rules say.
	Forbids func(target.Target, netip.Addr) bool

	// Refuses reports whether the configuration, whatever its rules say, would not open a
	// tunnel that was opened under another one. Nil is for never.
	Refuses func(*Asked) bool

	CloseDelay time.Duration // from when its handler is gone
	Handler    string        // its identity, for the log
	Logger     *zap.Logger   // of the rules
}

// forbids reports whether the rules forbid a tunnel. They are asked for after the
// tunnel was listed: new ones that come too late for that find the tunnel in the
// list.
func (p *Policy) forbids(l *live) bool {
	return p.Forbids != nil && p.Forbids(l.asked.Target, l.addr)
}

// refuses reports the same of all else that a configuration says.
func (p *Policy) refuses(l *live) bool { return p.Refuses != nil && p.Refuses(&l.asked) }

// inForce is the policy of the running configuration. mu is held.
func (s *List) inForce() *Policy {
	if len(s.policies) == 0 {
		return nil
	}
	return s.policies[0]
}

// Enter adds the policy of a configuration that is being provisioned.
func (s *List) Enter(p *Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.policies = append(s.policies, p)
	s.adopted()
}

// Leave takes a policy away. If it was in force, the next one is from here on. It has
// failed if its configuration has never been the active one.
func (s *List) Leave(p *Policy, failed bool) {
	s.mu.Lock()
	before := s.inForce()
	s.policies = slices.DeleteFunc(s.policies, func(q *Policy) bool { return q == p })
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
			zap.String("handler", p.Handler), zap.Int("tunnels", left), zap.Duration("close_delay", p.CloseDelay))
	}
	if now != before && now != nil {
		s.apply(now, func(l *live) bool { return now.forbids(l) || now.refuses(l) })
	}
}

// Changed tells that the rules of a policy have changed.
func (s *List) Changed(p *Policy) {
	s.mu.Lock()
	now := s.inForce()
	s.mu.Unlock()
	if p == now {
		s.apply(p, p.forbids)
	}
}

// apply ends the tunnels that must not go on under a policy.
func (s *List) apply(p *Policy, ends func(*live) bool) {
	if p.Forbids == nil && p.Refuses == nil {
		return
	}
	ended := 0
	for _, l := range s.all() {
		if ends(l) {
			ended++
			go l.relay.End(relay.ReasonPolicy) // to close TLS can take seconds
		}
	}
	if ended > 0 {
		p.Logger.Info("tunnels ended that would be refused now", zap.Int("tunnels", ended))
	}
}
