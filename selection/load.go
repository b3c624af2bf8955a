package selection

import (
	"math/rand/v2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// This file contains the policies that look at the load of members.

func init() {
	caddy.RegisterModule(LeastConn{})
	caddy.RegisterModule(new(EWMA))
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

// LeastConn is a policy that selects the member with the fewest
// exchanges and tunnels in flight, in proportion to its weight and to what slow
// start and overload leave of that. Among equals it selects at random. It looks
// at every member for every request.
type LeastConn struct{}

// CaddyModule returns the Caddy module information.
func (LeastConn) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".least_conn",
		New: func() caddy.Module { return new(LeastConn) },
	}
}

// Select implements Policy.
func (LeastConn) Select(s *Choice) int {
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
func (*LeastConn) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// EWMA is a policy that takes two members at random, in proportion to
// their weights, and lets their load and their speed decide. The requests that each gets
// should be in proportion to its weight and in inverse proportion to its latency (mean
// time to answer), and chance decides with these probabilities. What is then in flight
// is in proportion to the weights where it waits for answers (a slower member gets fewer
// requests, and has each for longer), and to the requests where it stands for as long on
// both, as tunnels do. Where one of the two has more than either by more than a request,
// the other one is selected. So weights hold at any concurrency, a slower member gets
// less, and no member gets nothing: what is never asked cannot show that it has
// recovered.
//
// Slow start and overload shrink the weight. Where nothing is known yet of the latency
// of one of the two, it counts as that of the other: a new member is tried at once, but
// not by everybody.
//
// This is the default.
type EWMA struct {
	sampler sampler
}

// CaddyModule returns the Caddy module information.
func (*EWMA) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".p2c_ewma",
		New: func() caddy.Module { return new(EWMA) },
	}
}

// Select implements Policy.
func (p *EWMA) Select(s *Choice) int {
	first := p.sampler.draw(s, -1)
	if first < 0 {
		return -1
	}
	second := p.sampler.draw(s, first)
	if second < 0 || !yields(s.Members[first], s.Members[second]) {
		return first
	}
	return second
}

// leastStay is the least probability with which a member that was drawn first is
// selected, however slow it is.
const leastStay = 0.01

// yields reports whether a, which was drawn first, gives the request to b.
func yields(a, b Member) bool {
	latencyA, latencyB := float64(a.Latency()), float64(b.Latency())
	if latencyA <= 0 || latencyB <= 0 {
		latencyA, latencyB = 1, 1
	}
	rateA, rateB := share(a)/latencyA, share(b)/latencyB
	inFlightA := float64(a.InFlight())
	inFlight := inFlightA + float64(b.InFlight())
	byRate := inFlight * rateA / (rateA + rateB)
	byShare := inFlight * share(a) / (share(a) + share(b))
	switch {
	case inFlightA > max(byRate, byShare)+1:
		return true
	case inFlightA < min(byRate, byShare)-1, latencyA <= latencyB:
		return false
	}
	// What is left to a makes its part that of its rate, as it was drawn by its share.
	stay := (share(a) + share(b)) / (share(a) + share(b)*latencyA/latencyB)
	return rand.Float64() >= max(stay, leastStay)
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy p2c_ewma
func (*EWMA) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// Interface guards
var (
	_ Policy = (*LeastConn)(nil)
	_ Policy = (*EWMA)(nil)

	_ caddyfile.Unmarshaler = (*LeastConn)(nil)
	_ caddyfile.Unmarshaler = (*EWMA)(nil)
)
