package egress

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// This file contains the policies that look at the load of members.

func init() {
	caddy.RegisterModule(LeastConnSelection{})
	caddy.RegisterModule(new(PeakEWMASelection))
}

// leastLoaded finds the member with the fewest in flight in proportion to its
// share. Among equals it draws one, again by share: in a group where nothing is
// in flight, all are equal, and a member in slow start is not to get as much as
// any other.
type leastLoaded struct {
	load float64
	ties lottery
}

func (l *leastLoaded) offer(i int, m Member) {
	share := share(m)
	load := float64(m.InFlight()) / share
	switch {
	case l.ties.total == 0 || load < l.load:
		l.load, l.ties = load, lottery{}
	case load > l.load:
		return
	}
	l.ties.enter(i, share)
}

// winner returns the index of the member found, or -1 if none was offered.
func (l *leastLoaded) winner() int { return l.ties.winner() }

// LeastConnSelection is a policy that selects the member with the fewest
// exchanges and tunnels in flight, in proportion to its weight and to what slow
// start and overload leave of that. Among equals it selects at random. It looks
// at every member for every request.
type LeastConnSelection struct{}

// CaddyModule returns the Caddy module information.
func (LeastConnSelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".least_conn",
		New: func() caddy.Module { return new(LeastConnSelection) },
	}
}

// Select implements SelectionPolicy.
func (LeastConnSelection) Select(s *Selection) int {
	var chosen leastLoaded
	for i, m := range s.Members {
		if s.Eligible(i) {
			chosen.offer(i, m)
		}
	}
	return chosen.winner()
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy least_conn
func (*LeastConnSelection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// PeakEWMASelection is a policy that takes two members at random, in proportion
// to their weights, and selects the one that costs less: the time it takes to
// connect (peak EWMA), times what would be in flight, divided by its weight.
// Slow start and overload shrink the weight. Where nothing is known yet of the
// time that one of the two takes, it counts as that of the other: a new member
// is tried at once, but not by everybody.
//
// This is the default.
type PeakEWMASelection struct {
	sampler sampler
}

// CaddyModule returns the Caddy module information.
func (*PeakEWMASelection) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".p2c_ewma",
		New: func() caddy.Module { return new(PeakEWMASelection) },
	}
}

// Select implements SelectionPolicy.
func (p *PeakEWMASelection) Select(s *Selection) int {
	first := p.sampler.draw(s, -1)
	if first < 0 {
		return -1
	}
	second := p.sampler.draw(s, first)
	// At equal cost the first stays: it was drawn by share, whereas the
	// second may have been the only one left.
	if second < 0 || !cheaper(s.Members[second], s.Members[first]) {
		return first
	}
	return second
}

// cheaper reports whether a costs less than b.
func cheaper(a, b Member) bool {
	latencyA, latencyB := float64(a.Latency()), float64(b.Latency())
	if latencyA <= 0 || latencyB <= 0 {
		latencyA, latencyB = 1, 1
	}
	costA := latencyA * float64(a.InFlight()+1) / share(a)
	costB := latencyB * float64(b.InFlight()+1) / share(b)
	return costA < costB
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy p2c_ewma
func (*PeakEWMASelection) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// Interface guards
var (
	_ SelectionPolicy = (*LeastConnSelection)(nil)
	_ SelectionPolicy = (*PeakEWMASelection)(nil)

	_ caddyfile.Unmarshaler = (*LeastConnSelection)(nil)
	_ caddyfile.Unmarshaler = (*PeakEWMASelection)(nil)
)
