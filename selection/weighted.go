package selection

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// This file contains weighted round robin: turns that are laid out once, and
// then only counted.

func init() {
	caddy.RegisterModule(new(WeightedRoundRobin))
}

const (
	// A cycle of turns is at most about so long, whatever the weights.
	maxTurns = 1 << 14

	// After so many turns in vain, beyond one for each member, a member is
	// drawn at random: a heavy member that is down has very many of them.
	maxVainTurns = 1 << 10

	// A policy serves one group, which has few tiers.
	maxTurnLists = 8
)

// WeightedRoundRobin is a policy that selects one member after the
// other, each as often as its weight says and evenly spread: with weights 5, 1
// and 1 the cycle is a a a b a a c. Unlike in reverse_proxy, weights are not
// arguments of the policy: they are the `weight` of each upstream.
//
// A member in slow start or overload is passed over now and then, as its share
// wants it; while one is down, the others have its turns in proportion to their
// weights.
// Weights whose ratio takes a cycle of more than 16,384 turns are rounded.
type WeightedRoundRobin struct {
	mu    sync.Mutex // held to add to lists
	lists atomic.Pointer[[]*turnList]
}

// CaddyModule returns the Caddy module information.
func (*WeightedRoundRobin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".weighted_round_robin",
		New: func() caddy.Module { return new(WeightedRoundRobin) },
	}
}

// Select implements Policy.
func (p *WeightedRoundRobin) Select(s *Choice) int {
	if len(s.Members) == 0 {
		return -1
	}
	if i := p.turns(s.Members).take(s); i >= 0 {
		return i
	}
	var chosen lottery
	for i, m := range s.Members {
		if s.Eligible(i) {
			chosen.enter(i, share(m))
		}
	}
	return chosen.winner()
}

// turns returns the turns of these members: those laid out for this very slice, or for
// other ones of the same keys and weights.
func (p *WeightedRoundRobin) turns(members []Member) *turnList {
	if t := p.find(func(t *turnList) bool { return sameSlice(t.members, members) }); t != nil {
		return t
	}
	if t := p.find(func(t *turnList) bool { return sameTurns(t.members, members) }); t != nil {
		return t
	}
	return p.add(members)
}

func (p *WeightedRoundRobin) find(fits func(*turnList) bool) *turnList {
	lists := p.lists.Load()
	if lists == nil {
		return nil
	}
	for _, t := range *lists {
		if fits(t) {
			return t
		}
	}
	return nil
}

// add lays out turns for these members, if nobody else just did. The oldest turns go
// where there are too many.
func (p *WeightedRoundRobin) add(members []Member) *turnList {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.find(func(t *turnList) bool { return sameTurns(t.members, members) }); t != nil {
		return t
	}
	lists := []*turnList{newTurnList(members)}
	if old := p.lists.Load(); old != nil {
		lists = append(lists, (*old)[:min(len(*old), maxTurnLists-1)]...)
	}
	p.lists.Store(&lists)
	return lists[0]
}

func sameSlice(a, b []Member) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// sameTurns reports whether members would have the same turns: a key and a weight are a
// member's own for as long as it lives.
func sameTurns(a, b []Member) bool {
	return slices.EqualFunc(a, b, func(a, b Member) bool {
		return a.Key() == b.Key() && weight(a) == weight(b)
	})
}

// turnList is one cycle of turns. Everything but the count is constant.
type turnList struct {
	members []Member // for which it was made
	cycle   []int32  // indices into members
	next    atomic.Uint64
}

// newTurnList lays out the turns of a cycle that lasts from 0 to 1. A member of
// weight w has its turns at equal distances of 1/w. The first comes the later,
// the later the member stands in the configuration: members of equal weight
// have their turns in configured order then, and not all at the same time.
func newTurnList(members []Member) *turnList {
	t := &turnList{members: members}
	weights := make([]int, len(members))
	for i, m := range members {
		weights[i] = weight(m)
	}
	type turn struct {
		member int32
		// The time of the turn is at/weight in some unit: whole numbers, so
		// that turns at the same time compare equal.
		at, weight uint64
	}
	var turns []turn
	phases := 2 * uint64(len(members))
	for i, w := range reduce(weights) {
		for k := range uint64(w) {
			turns = append(turns, turn{int32(i), k*phases + 2*uint64(i) + 1, uint64(w)})
		}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return cmp.Compare(a.at*b.weight, b.at*a.weight) })
	t.cycle = make([]int32, len(turns))
	for i := range turns {
		t.cycle[i] = turns[i].member
	}
	return t
}

// reduce divides weights by what they have in common, and rounds them where
// their sum is too large still.
func reduce(weights []int) []int {
	divisor, sum := 0, 0.0
	for _, w := range weights {
		for a, b := w, divisor; ; a, b = b, a%b {
			if b == 0 {
				divisor = a
				break
			}
		}
		sum += float64(w)
	}
	reduced := make([]int, len(weights))
	scale := min(1, maxTurns*float64(divisor)/sum)
	for i, w := range weights {
		reduced[i] = max(1, int(float64(w/divisor)*scale+0.5))
	}
	return reduced
}

// take returns the index of the member whose turn it is, or -1 if it was the
// turn of no eligible one for long.
func (t *turnList) take(s *Choice) int {
	n := uint64(len(t.cycle))
	turn := t.next.Add(1) - 1
	for passed := range min(n, uint64(len(t.members))+maxVainTurns) {
		i := int(t.cycle[(turn+passed)%n])
		if !s.Eligible(i) || !admitted(s.Members[i]) {
			continue
		}
		if passed > 0 {
			t.next.Add(passed) // as in round robin
		}
		return i
	}
	return -1
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy weighted_round_robin
func (*WeightedRoundRobin) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // policy name
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': weighted_round_robin takes none, set the weight of each upstream", d.Val())
	}
	return noPolicyBlock(d, "weighted_round_robin")
}

// Interface guards
var (
	_ Policy = (*WeightedRoundRobin)(nil)

	_ caddyfile.Unmarshaler = (*WeightedRoundRobin)(nil)
)
