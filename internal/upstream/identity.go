package upstream

import (
	"slices"
	"sync"

	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains what people and programs know an upstream by: the same over reloads, in
// every handler, and whatever becomes of its password and of other upstreams. What is ordered
// of an upstream is ordered under that name.

// account is who is logged in where, in the groups of one name.
type account struct{ group, addr, user string }

func (s *Spec) account(group string) account { return account{group, s.Addr.String(), s.user()} }

// id is what the upstream is known by. Those of one account that differ in their passwords have
// a number beside.
func (a account) id(number int) string { return shared.Digest(a.group, a.addr, a.user, number)[:12] }

// identity is an upstream of an account.
type identity struct {
	account
	number int
	mark   string // of its login: see markOf
}

// markOf tells the logins of one user at one address apart, from one process to the next. It
// is in storage: too short to find a password by.
func markOf(healthID string) string { return healthID[:4] }

// identities are the upstreams in use in this process.
var identities = struct {
	giving sync.Mutex // held while upstreams are given numbers, until they have them

	mu sync.Mutex
	of map[account]map[*Health]string // their health ID; guarded by mu
}{of: make(map[account]map[*Health]string)}

// identify finds the identities of upstreams by their health ID. One that is in use keeps its
// number, and one of which something is ordered has it again after a restart. Another password
// gets the number of one that is not there any more, and the lowest otherwise, but for one
// whose order was given to another of several. giving is held.
func identify(group string, lists [][]*Spec) map[string]identity {
	wanted := make(map[account][]string)
	out := make(map[string]identity)
	for _, list := range lists {
		for _, s := range list {
			id := s.healthID(group)
			if _, known := out[id]; !known {
				a := s.account(group)
				out[id] = identity{account: a, mark: markOf(id)}
				wanted[a] = append(wanted[a], id)
			}
		}
	}
	ordered := newHolders()
	for a, ids := range wanted {
		for i, n := range a.number(ids, ordered) {
			of := out[ids[i]]
			of.number = n
			out[ids[i]] = of
		}
	}
	return out
}

// number gives the upstreams of an account their numbers.
func (a account) number(ids []string, ordered holders) []int {
	const none = -1
	numbers, taken, inUse := make([]int, len(ids)), make(map[int]bool), make(map[int]bool)
	for i := range numbers {
		numbers[i] = none
	}
	give := func(i, n int) { numbers[i], taken[n] = n, true }
	at := make(map[string]int, len(ids))
	for i, id := range ids {
		at[id] = i
	}
	identities.mu.Lock()
	for h, id := range identities.of[a] {
		inUse[h.identity.number] = true
		if i, ok := at[id]; ok {
			give(i, h.identity.number)
		}
	}
	identities.mu.Unlock()
	held := ordered.of(a)
	for n, h := range held {
		if i := slices.IndexFunc(ids, func(id string) bool { return markOf(id) == h.Mark }); i >= 0 && numbers[i] == none && !taken[n] {
			give(i, n)
		}
	}
	followed := make([]int, 0, len(inUse)) // whose password has changed
	for n := range inUse {
		if !taken[n] {
			followed = append(followed, n)
		}
	}
	slices.Sort(followed)
	next := 0
	for i := range numbers {
		if numbers[i] != none {
			continue
		}
		if len(followed) > 0 {
			give(i, followed[0])
			followed = followed[1:]
			continue
		}
		for h, ok := held[next]; taken[next] || ok && !h.Alone; h, ok = held[next] {
			next++
		}
		give(i, next)
	}
	return numbers
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

// enter has the health known by its identity, and obey what is ordered.
func (h *Health) enter(of identity, healthID string) {
	h.identity, h.id = of, of.id(of.number)
	identities.mu.Lock()
	if identities.of[of.account] == nil {
		identities.of[of.account] = make(map[*Health]string)
	}
	identities.of[of.account][h] = healthID
	identities.mu.Unlock()
	h.detach = orders.Of.Attach(h.id, h)
}

// leave ends what enter has begun.
func (h *Health) leave() {
	identities.mu.Lock()
	all := identities.of[h.identity.account]
	if delete(all, h); len(all) == 0 {
		delete(identities.of, h.identity.account)
	}
	identities.mu.Unlock()
	h.detach()
}

// Holder implements orders.Attached.
func (h *Health) Holder() orders.Holder {
	identities.mu.Lock()
	defer identities.mu.Unlock()
	alone := true
	for o := range identities.of[h.identity.account] {
		alone = alone && o.identity.number == h.identity.number
	}
	return orders.Holder{Number: h.identity.number, Mark: h.identity.mark, Alone: alone}
}

// Interface guards
var _ orders.Attached = (*Health)(nil)
