package selection

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the policies that draw at random, and how to draw.

func init() {
	caddy.RegisterModule(new(Random))
	caddy.RegisterModule(RandomChoice{})
}

const (
	probeAbove = 8  // members: fewer are looked at one by one
	probes     = 16 // before all members are looked at
)

// sampler draws members at random, each in proportion to its share. In a large
// group it looks at a few members only, most of the time: it takes any one and
// rejects it with the probability that its share falls short of the largest.
// The zero value is ready to use.
type sampler struct {
	// The largest weight of the group as last seen, 0 before. Too low for a
	// moment after a heavier member came, it makes that one a little too
	// rare; too high, it costs time until all members are looked at.
	heaviest atomic.Int64
}

// draw returns an eligible member other than not, or -1.
func (p *sampler) draw(s *Choice, not int) int {
	if n := len(s.Members); n > probeAbove {
		if heaviest := p.heaviest.Load(); heaviest > 0 {
			if i := p.probe(s, not, heaviest); i >= 0 {
				return i
			}
		}
	}
	return p.scan(s, not)
}

func (p *sampler) probe(s *Choice, not int, heaviest int64) int {
	for range probes {
		i := rand.IntN(len(s.Members))
		m := s.Members[i]
		w := int64(weight(m))
		if w > heaviest {
			heaviest = w
			p.heaviest.Store(w)
		}
		if i == not || !s.Eligible(i) {
			continue
		}
		if rand.Float64()*float64(heaviest) < float64(w)*factor(m) {
			return i
		}
	}
	return -1
}

// scan looks at all members once, so that one which is eligible throughout is
// found whatever the others do meanwhile.
func (p *sampler) scan(s *Choice, not int) int {
	var chosen lottery
	heaviest := 0
	for i, m := range s.Members {
		heaviest = max(heaviest, weight(m))
		if i != not && s.Eligible(i) {
			chosen.enter(i, share(m))
		}
	}
	if p.heaviest.Load() != int64(heaviest) {
		p.heaviest.Store(int64(heaviest))
	}
	return chosen.winner()
}

// lottery draws one of any number of entries, each in proportion to its share,
// and remembers but one (a reservoir sample).
type lottery struct {
	total float64
	index int // of the entry that would win now
}

func (l *lottery) enter(i int, share float64) {
	l.total += share
	if l.total == share || rand.Float64()*l.total < share {
		l.index = i
	}
}

// winner returns the index of the entry drawn, or -1 if there was none.
func (l *lottery) winner() int {
	if l.total == 0 {
		return -1
	}
	return l.index
}

// Random is a policy that selects a member at random, in proportion to
// its weight and to what slow start and overload leave of that.
type Random struct {
	sampler sampler
}

// CaddyModule returns the Caddy module information.
func (*Random) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".random",
		New: func() caddy.Module { return new(Random) },
	}
}

// Select implements Policy.
func (p *Random) Select(s *Choice) int { return p.sampler.draw(s, -1) }

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy random
func (*Random) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// RandomChoice is a policy that takes a number of members at random and
// selects among them as least_conn does.
type RandomChoice struct {
	// How many members to choose from, at least 2; from all of them if they
	// are fewer. Default: 2.
	Choose int `json:"choose,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (RandomChoice) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".random_choose",
		New: func() caddy.Module { return new(RandomChoice) },
	}
}

const defaultChoose = 2

// Validate implements caddy.Validator.
func (p RandomChoice) Validate() error {
	if p.Choose != 0 && p.Choose < 2 {
		return fmt.Errorf("bad choose %d: must be at least 2", p.Choose)
	}
	return nil
}

// Select implements Policy.
func (p RandomChoice) Select(s *Choice) int {
	choose := p.Choose
	if choose == 0 {
		choose = defaultChoose
	}
	eligible := 0
	for i := range s.Members {
		if s.Eligible(i) {
			eligible++
		}
	}
	// Selection sampling: every set of that size is equally likely, and
	// nothing need be kept of it. Members may have become eligible, or have
	// ceased to be, since they were counted.
	var chosen leastLoaded
	last := -1
	for i, m := range s.Members {
		if choose == 0 {
			break
		}
		if !s.Eligible(i) {
			continue
		}
		last = i
		if eligible <= choose || rand.IntN(eligible) < choose {
			chosen.offer(i, m)
			choose--
		}
		eligible--
	}
	if i := chosen.winner(); i >= 0 {
		return i
	}
	return last
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy random_choose <count>
func (p *RandomChoice) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // policy name
	name, arg, err := words.One(d)
	if err != nil {
		return err
	}
	p.Choose, err = strconv.Atoi(arg)
	if err != nil {
		return d.Errf("bad %s '%s': not a number", name, arg)
	}
	if p.Choose < 2 {
		return d.Errf("bad %s '%s': must be at least 2", name, arg)
	}
	return noPolicyBlock(d, name)
}

// Interface guards
var (
	_ Policy = (*Random)(nil)
	_ Policy = (*RandomChoice)(nil)

	_ caddy.Validator = (*RandomChoice)(nil)

	_ caddyfile.Unmarshaler = (*Random)(nil)
	_ caddyfile.Unmarshaler = (*RandomChoice)(nil)
)
