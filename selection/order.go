package selection

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// This file contains the policies that go by the configured order.

func init() {
	caddy.RegisterModule(First{})
	caddy.RegisterModule(new(RoundRobin))
}

// admitted reports whether a member takes its turn: always if it has its full
// share, and as often as its factor says otherwise.
func admitted(m Member) bool {
	f := factor(m)
	return f >= 1 || rand.Float64() < f
}

// byFactor is what is left when every eligible member passed on its turn.
func byFactor(s *Choice) int {
	var chosen lottery
	for i, m := range s.Members {
		if s.Eligible(i) {
			chosen.enter(i, factor(m))
		}
	}
	return chosen.winner()
}

// First is a policy that selects the first member that is available,
// in configured order: the others are there for when it fails. Weights do not
// matter. A member in slow start or overload takes only a part of the requests,
// the rest goes on to the next.
type First struct{}

// CaddyModule returns the Caddy module information.
func (First) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".first",
		New: func() caddy.Module { return new(First) },
	}
}

// Select implements Policy.
func (First) Select(s *Choice) int {
	first := -1
	for i, m := range s.Members {
		if !s.Eligible(i) {
			continue
		}
		if admitted(m) {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy first
func (*First) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// RoundRobin is a policy that selects one member after the other, in
// configured order. Weights do not matter; weighted_round_robin is for them. A
// member in slow start or overload is passed over now and then, as its share
// wants it.
type RoundRobin struct {
	next atomic.Uint64
}

// CaddyModule returns the Caddy module information.
func (*RoundRobin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".round_robin",
		New: func() caddy.Module { return new(RoundRobin) },
	}
}

// Select implements Policy.
func (p *RoundRobin) Select(s *Choice) int {
	n := uint64(len(s.Members))
	if n == 0 {
		return -1
	}
	turn := p.next.Add(1) - 1
	for passed := range n {
		i := int((turn + passed) % n)
		if !s.Eligible(i) || !admitted(s.Members[i]) {
			continue
		}
		if passed > 0 {
			// Those passed over had their turn; otherwise the member
			// behind one that is down would get two.
			p.next.Add(passed)
		}
		return i
	}
	return byFactor(s)
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy round_robin
func (*RoundRobin) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// Interface guards
var (
	_ Policy = (*First)(nil)
	_ Policy = (*RoundRobin)(nil)

	_ caddyfile.Unmarshaler = (*First)(nil)
	_ caddyfile.Unmarshaler = (*RoundRobin)(nil)
)
