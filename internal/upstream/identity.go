package upstream

import (
	"slices"
	"sync"

	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains what people and programs know an upstream by: the same over reloads, in
// every handler, and whatever becomes of its password and of other upstreams. What is ordered
// of an upstream is ordered under that name. (How accounts that differ in nothing that may be
// told get their numbers is in numbers.go.)

// account is who is logged in where, in the groups of one name.
type account struct{ group, addr, user string }

func (s *Spec) account(group string) account { return account{group, s.Addr.String(), s.user()} }

// id is what the upstream is known by. Those of one account that differ in their passwords have
// a number beside.
func (a account) id(number int) string { return shared.Digest(a.group, a.addr, a.user, number)[:12] }

// maxNumber is more than the accounts of one user at one address that anybody has.
const maxNumber = 64

// IsAccount reports whether an ID is that of a user's account at an address, in the groups of
// one name; addr is as Address writes it.
func IsAccount(id, group, addr, user string) bool {
	a := account{group, addr, user}
	for n := range maxNumber {
		if a.id(n) == id {
			return true
		}
	}
	return false
}

// markOf tells the logins of one user at one address apart, from one process to the next. It
// is in storage: too short to find a password by.
func markOf(healthID string) string { return healthID[:4] }

// identity is what an upstream of an account is known by. What is not said to be anything else
// is guarded by identities.mu, and written with identities.giving held.
type identity struct {
	account        // never changes
	mark    string // of its login: see markOf; never changes

	number  int // not yet given where detach is nil
	detach  func()
	holders []*Group // that have it, the last one behind

	settled  bool   // it keeps its number
	ran      bool   // a configuration with it has run
	replaces []int  // numbers of those in whose places it stands, ascending
	handler  string // the first one that has it, until it is settled
	position int    // among the upstreams there
}

// place is where a group is.
type place struct {
	configuration any // nil also for that of none that is known
	group         string
	handler       string
}

func (g *Group) place() place { return place{g.cfg.Configuration, g.Name, g.cfg.Handler} }

// identities are the upstreams in use in this process.
var identities = struct {
	giving sync.Mutex // held while members come and go, and until they have their numbers

	mu      sync.Mutex
	of      map[account][]*Health // guarded by mu
	groups  map[place]*Group      // that have members or had any, and are not closed; guarded by mu
	running any                   // the configuration that runs, or has run last; guarded by mu
}{of: make(map[account][]*Health), groups: make(map[place]*Group)}

// enter has the health counted among those of its account. It gets its number when its group
// holds it.
func (h *Health) enter(of account, healthID string) {
	h.identity.account, h.identity.mark = of, markOf(healthID)
	identities.mu.Lock()
	defer identities.mu.Unlock()
	identities.of[of] = append(identities.of[of], h)
}

// leave ends what enter has begun. giving is held.
func (h *Health) leave() {
	identities.mu.Lock()
	a := h.identity.account
	all := slices.DeleteFunc(identities.of[a], func(o *Health) bool { return o == h })
	if identities.of[a] = all; len(all) == 0 {
		delete(identities.of, a)
	}
	detach := h.identity.detach
	identities.mu.Unlock()
	if detach != nil {
		detach()
	}
}

// hold makes the upstreams of the group others, which have been used already and are in the
// order of its lists. giving is held.
func (g *Group) hold(next []*Health) {
	identities.mu.Lock()
	defer identities.mu.Unlock()
	at := g.place()
	identities.groups[at] = g
	is := make(map[*Health]bool, len(next))
	for i, h := range next {
		is[h] = true
		id := &h.identity
		if !g.held[h] {
			id.holders = append(id.holders, g)
		}
		if !id.settled && (len(id.holders) == 1 || at.handler <= id.handler) {
			id.handler, id.position = at.handler, i
		}
	}
	for h := range g.held {
		if !is[h] {
			h.identity.dropHolder(g)
		}
	}
	g.held = is
}

func (id *identity) dropHolder(g *Group) {
	if i := slices.Index(id.holders, g); i >= 0 {
		id.holders = slices.Delete(id.holders, i, i+1)
	}
}

// letGo ends what hold has begun. giving is held.
func (g *Group) letGo() {
	g.hold(nil)
	identities.mu.Lock()
	defer identities.mu.Unlock()
	if at := g.place(); identities.groups[at] == g {
		delete(identities.groups, at)
	}
	for at := range identities.groups {
		if at.configuration == identities.running {
			return
		}
	}
	identities.running = nil // or it would be kept in memory
}

// begin notes that the configuration of the group runs: from now on its upstreams keep what
// they are known by, and those of the one before count no more.
func (g *Group) begin() {
	identities.giving.Lock()
	defer identities.giving.Unlock()
	identities.mu.Lock()
	of := g.cfg.Configuration
	if before := identities.running; before != of {
		for at, g := range identities.groups {
			g.past = g.past || at.configuration == before
		}
	}
	identities.running = of
	var accounts []account
	for a, all := range identities.of {
		if slices.ContainsFunc(all, func(h *Health) bool { return !h.identity.settled }) {
			accounts = append(accounts, a)
		}
	}
	identities.mu.Unlock()
	all := newHolders()
	for _, a := range accounts {
		a.giveNumbers(all, of, true)
	}
	orders.Of.Look()
}

// runs reports whether the configuration of the group is the one that runs.
func (g *Group) runs() bool {
	identities.mu.Lock()
	defer identities.mu.Unlock()
	return g.cfg.Configuration == identities.running
}

// Holder implements orders.Attached.
func (h *Health) Holder() (of orders.Holder, runs bool) {
	identities.mu.Lock()
	defer identities.mu.Unlock()
	id := &h.identity
	others := slices.ContainsFunc(identities.of[id.account], func(o *Health) bool { return o != h && o.stays(identities.running) })
	return orders.Holder{Number: id.number, Mark: id.mark, Alone: !others}, h.stays(identities.running)
}

// HasRun implements orders.Attached.
func (h *Health) HasRun() bool {
	identities.mu.Lock()
	defer identities.mu.Unlock()
	return h.identity.ran
}

// Interface guards
var _ orders.Attached = (*Health)(nil)
