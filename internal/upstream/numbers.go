package upstream

import (
	"cmp"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/orders"
)

// This file contains the numbers of accounts that differ in their passwords only: which one is
// which, after a reload, a restart, or a change of passwords.
//
// An upstream keeps its number from the moment at which a configuration with it runs. Until
// then it may get another one, as other handlers with a group of that name come: what they
// have decides who is still there.

// replacedWithin is for how long an upstream may still become the one that it stands in for,
// while that is in other groups: handlers read one list, but not at the same moment.
const replacedWithin = time.Minute

// stays reports whether the upstream will be there when a configuration runs: that has it, or,
// while it is being provisioned, a handler that runs has it whose place was not reached yet.
// identities.mu is held.
func (h *Health) stays(in any) bool {
	all := h.identity.holders
	for i := len(all) - 1; i >= 0; i-- { // the last one is the most likely
		at := all[i].place()
		if at.configuration == in {
			return true
		}
		if at.configuration != identities.running || in == identities.running {
			continue
		}
		at.configuration = in
		if identities.groups[at] == nil {
			return true
		}
	}
	return false
}

// mayStay reports whether a configuration has the upstream that may come to run. identities.mu
// is held.
func (h *Health) mayStay() bool {
	return slices.ContainsFunc(h.identity.holders, func(g *Group) bool {
		return !g.past && g.cfg.Configuration != identities.running
	})
}

// before are the upstreams that stood where the group stands now, in their order: its own, or
// those of the group that runs at its place.
func (g *Group) before() (all []*Health) {
	of := g
	if len(g.members) == 0 {
		identities.mu.Lock()
		at := g.place()
		at.configuration = identities.running
		of = identities.groups[at]
		identities.mu.Unlock()
		if of == nil || of == g {
			return nil
		}
	}
	for _, ref := range of.health.Members() {
		all = append(all, ref.Value.(*Member).Health)
	}
	return all
}

// renumber has the upstreams of a group known by their numbers, once it holds them. Those that
// stand in places of others become these: as many as there were before, in their order, since
// that is what a change of passwords looks like. giving is held.
func (g *Group) renumber(before, now []*Health) {
	identities.mu.Lock()
	type change struct{ gone, fresh []*Health }
	changes := make(map[account]*change) // nil of accounts of which everybody has kept a number
	changeOf := func(h *Health) *change {
		a := h.identity.account
		c, known := changes[a]
		if !known {
			if slices.ContainsFunc(identities.of[a], func(h *Health) bool { return !h.identity.settled }) {
				c = new(change)
			}
			changes[a] = c
		}
		return c
	}
	was, is := make(map[*Health]bool), make(map[*Health]bool)
	for _, h := range before {
		was[h] = true
	}
	for _, h := range now {
		is[h] = true
		if c := changeOf(h); c != nil && !was[h] && !h.identity.settled {
			c.fresh = append(c.fresh, h)
		}
	}
	for _, h := range before {
		if c := changeOf(h); c != nil && !is[h] {
			c.gone = append(c.gone, h)
		}
	}
	for _, c := range changes {
		if c == nil || len(c.gone) != len(c.fresh) {
			continue
		}
		for i, h := range c.fresh {
			if n := c.gone[i].identity.number; !slices.Contains(h.identity.replaces, n) {
				h.identity.replaces = append(h.identity.replaces, n)
				slices.Sort(h.identity.replaces)
			}
		}
	}
	identities.mu.Unlock()
	all := newHolders()
	for a, c := range changes {
		if c == nil {
			continue
		}
		a.giveNumbers(all, g.cfg.Configuration, false)
	}
}

// giveNumbers gives the upstreams of an account that stay in a configuration their numbers, as
// far as they have not kept one. With settle they keep them from now on, and where the
// configuration runs anyway, unless one stands in for another. giving is held.
func (a account) giveNumbers(all holders, in any, settle bool) {
	g := numbering{account: a, ordered: all.of(a), stay: make(map[int]bool), live: make(map[int]bool)}
	identities.mu.Lock()
	runs := in == identities.running
	for _, h := range identities.of[a] {
		id := &h.identity
		stays := h.stays(in)
		if stays {
			g.staying++
		}
		switch {
		case stays && !id.settled && (runs || !id.ran):
			g.asking = append(g.asking, h)
		case stays || runs && id.ran && h.mayStay():
			g.stay[id.number], g.live[id.number] = true, true
		case id.detach != nil:
			g.live[id.number] = true
		}
	}
	numbers := g.give()
	var others []string // ordered about and gone, while there are others of the account
	if runs && g.staying > 0 {
		for n, holder := range g.ordered {
			if holder.Alone && !g.stay[n] && !slices.Contains(numbers, n) {
				others = append(others, a.id(n))
			}
		}
	}
	type move struct {
		*Health
		to     int
		detach func() // from what was ordered of the number before
	}
	var moves []move
	for i, h := range g.asking {
		id := &h.identity
		if id.detach == nil || id.number != numbers[i] {
			moves = append(moves, move{h, numbers[i], id.detach})
		}
		id.ran = id.ran || runs
		id.settled = settle || runs && !g.waits(h, numbers[i])
	}
	identities.mu.Unlock()
	for _, m := range moves { // the book asks them who they are
		if m.detach != nil {
			m.detach()
		}
		m.isKnownAs(m.to)
	}
	for _, id := range others {
		orders.Of.NotAlone(id)
	}
}

// isKnownAs has the health known by a number, and obey what is ordered of it.
func (h *Health) isKnownAs(number int) {
	id := h.identity.id(number)
	identities.mu.Lock()
	h.identity.number = number
	identities.mu.Unlock()
	h.id.Store(&id)
	detach := orders.Of.Attach(id, h)
	identities.mu.Lock()
	h.identity.detach = detach
	identities.mu.Unlock()
}

// numbering is how the upstreams of an account get their numbers.
type numbering struct {
	account
	ordered map[int]orders.Holder // those whom orders were given to, by number
	asking  []*Health             // that have not kept a number
	staying int                   // those, and the others that stay
	stay    map[int]bool          // the numbers of these others
	live    map[int]bool          // and of those that go
}

// give finds the numbers of those who ask for one. Who was given an order has its number; who
// stands in the place of one that goes gets that one's; who has run already keeps its own
// otherwise, whoever comes; the only one of the account is the one that there was. All others
// get a number of which nothing is known, in the order in which they are written, so that it
// is the same one after a restart.
func (g *numbering) give() []int {
	slices.SortStableFunc(g.asking, func(a, b *Health) int {
		return cmp.Or(cmp.Compare(a.identity.handler, b.identity.handler), cmp.Compare(a.identity.position, b.identity.position))
	})
	const none = -1
	numbers, taken := make([]int, len(g.asking)), make(map[int]bool)
	for i := range numbers {
		numbers[i] = none
	}
	try := func(find func(*identity) int) {
		for i, h := range g.asking {
			if numbers[i] != none {
				continue
			}
			if n := find(&h.identity); n != none && !taken[n] && !g.stay[n] {
				numbers[i], taken[n] = n, true
			}
		}
	}
	try(func(id *identity) int {
		return g.lowest(none, func(n int) bool { return g.ordered[n].Mark == id.mark })
	})
	own := make(map[int]bool) // of those who have run and ask for another one, where it is there
	for _, h := range g.asking {
		if h.identity.ran {
			own[h.identity.number] = true
		}
	}
	replaced := func(ran bool) {
		for _, ordered := range []bool{true, false} {
			try(func(id *identity) int {
				for _, n := range id.replaces {
					if _, is := g.ordered[n]; id.ran == ran && is == ordered && !taken[n] && !g.stay[n] && !own[n] {
						return n
					}
				}
				return none
			})
		}
	}
	replaced(true)
	try(func(id *identity) int {
		if id.ran {
			return id.number
		}
		return none
	})
	replaced(false)
	if g.staying == 1 {
		try(func(*identity) int { return g.alone(none) })
	}
	next := 0
	for i := range numbers {
		if numbers[i] != none {
			continue
		}
		for _, is := g.ordered[next]; is || taken[next] || g.live[next]; _, is = g.ordered[next] {
			next++
		}
		numbers[i], taken[next] = next, true
	}
	return numbers
}

// lowest is the lowest number with an order that fits.
func (g *numbering) lowest(none int, fits func(int) bool) int {
	found := none
	for n := range g.ordered {
		if fits(n) && (found == none || n < found) {
			found = n
		}
	}
	return found
}

// alone is the number of one that is the only one of its account: that of one that goes, first
// of all one of which something is ordered, or of one that has gone and was the only one too.
func (g *numbering) alone(none int) int {
	if n := g.lowest(none, func(n int) bool { return g.live[n] }); n != none {
		return n
	}
	if n := g.lowest(none, func(n int) bool { return g.ordered[n].Alone }); n != none {
		return n
	}
	for n := range g.live {
		if none < 0 || n < none {
			none = n
		}
	}
	return none
}

// waits reports whether an upstream may still become the one that it stands in for: that is
// there, in other groups, and nothing was ordered of the upstream itself.
func (g *numbering) waits(h *Health, number int) bool {
	replaces := h.identity.replaces
	if _, ordered := g.ordered[number]; ordered || time.Since(h.known) >= replacedWithin || slices.Contains(replaces, number) {
		return false
	}
	return slices.ContainsFunc(replaces, func(n int) bool { return g.stay[n] })
}

// holders are those whom orders were given to.
type holders struct {
	orders  map[string]orders.Order // by ID
	numbers []int                   // that there are
}

func newHolders() holders {
	h := holders{orders: orders.Of.Upstreams()}
	for _, o := range h.orders {
		if !slices.Contains(h.numbers, o.Holder.Number) {
			h.numbers = append(h.numbers, o.Holder.Number)
		}
	}
	return h
}

// of are those of an account, by their number.
func (h *holders) of(a account) map[int]orders.Holder {
	var found map[int]orders.Holder
	for _, n := range h.numbers {
		if o, ok := h.orders[a.id(n)]; ok {
			if found == nil {
				found = make(map[int]orders.Holder)
			}
			found[n] = o.Holder
		}
	}
	return found
}
