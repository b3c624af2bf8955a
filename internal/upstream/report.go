package upstream

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains what groups report of themselves, for people and programs that look.

// Report is what a group is at a moment.
type Report struct {
	Name      string
	Members   []MemberReport // by priority
	Available int            // of the members: those that the next request may be given to

	Ready      int  // of the members: those that the operator has not taken out
	InRotation int  // of these: those whose health lets requests pass
	Panic      bool // too few are in rotation, so that ejection is ignored

	Requests, Retries int64   // under way through the group
	RetryBudget       float64 // the part of the budget of retries that is taken
}

// MemberReport is what an upstream is at a moment.
type MemberReport struct {
	health.Report
	ID               string // the same over reloads; nothing of its credentials can be read in it
	Name             string // its URL without credentials, and a number for those that share it
	Address          string // in Caddy's notation: host:port, or unix/ and a path
	Key              uint64 // by which circuits of destinations know it
	Priority, Weight int
	Full             bool           // it takes no further exchanges, or no further tunnels, for its own limits
	Pickable         bool           // requests may be given to it now
	Pool             connpool.Stats // of its connections for exchanges
	Counts           Counts
	Known            time.Time // since when
	LastFault        *Fault    // nil for none; it is not changed

	state *Health // which handlers may share
}

// Same reports whether two members, of different handlers, are one upstream with the same
// settings, so that one of the reports will do.
func (m *MemberReport) Same(o *MemberReport) bool {
	return m.state == o.state && m.ID == o.ID && m.Name == o.Name && m.Priority == o.Priority && m.Weight == o.Weight &&
		m.Full == o.Full && m.Pickable == o.Pickable
}

// Fault is a failure that was charged to an upstream, or might have been.
type Fault struct {
	At   time.Time
	Kind health.Kind
	Text string
}

// maxFault is how much of an error is kept for people: it may be an upstream's words.
const maxFault = 256

// noteFault remembers what a verdict holds against the upstream. It is not on the way of
// requests that go well.
func (h *Health) noteFault(now time.Time, v *Verdict) {
	switch v.Kind {
	case health.Success, health.Neutral, health.Cancelled:
		return
	}
	f := &Fault{At: now, Kind: v.Kind}
	switch {
	case v.Err != nil:
		f.Text = plaintext.Short(v.Err.Error(), maxFault)
	case v.Failure != nil:
		f.Text = v.Failure.Text
	}
	h.fault.Store(f)
}

// Counts are what an upstream has brought, since it is known.
type Counts struct {
	Results     [health.Kinds]uint64         // by health.Kind
	Checks      [health.CheckOutcomes]uint64 // by health.CheckOutcome
	Transitions [len(health.Events)]uint64   // by index in health.Events
}

// counts are Counts that grow.
type counts struct {
	results     [health.Kinds]atomic.Uint64
	checks      [health.CheckOutcomes]atomic.Uint64
	transitions [len(health.Events)]atomic.Uint64 // by index in health.Events
}

func (c *counts) transition(e health.Event) {
	for i := range health.Events {
		if health.Events[i] == e {
			c.transitions[i].Add(1)
		}
	}
}

func (c *counts) now() Counts {
	var n Counts
	for i := range c.results {
		n.Results[i] = c.results[i].Load()
	}
	for i := range c.checks {
		n.Checks[i] = c.checks[i].Load()
	}
	for i := range c.transitions {
		n.Transitions[i] = c.transitions[i].Load()
	}
	return n
}

// Report tells what the group is now.
func (g *Group) Report(now time.Time) Report {
	r := Report{Name: g.Name}
	r.Requests, r.Retries = g.Budget.InFlight()
	r.RetryBudget = g.Budget.Used()
	pickable := make(map[*health.Member]bool)
	snapshot := g.viewOf(g.health.Peek(now)).snapshot
	r.Ready, r.InRotation, r.Panic = snapshot.Ready, snapshot.InRotation, snapshot.Panic
	for _, tier := range snapshot.Tiers {
		for _, m := range tier.Members {
			pickable[m] = true
		}
	}
	number := g.numbers()
	for _, ref := range g.health.Members() {
		m := ref.Value.(*Member)
		mr := m.report(now)
		mr.Pickable = pickable[ref] && !mr.Full
		if n := number[m]; n > 1 {
			mr.Name += "#" + strconv.Itoa(n)
		}
		if mr.Pickable {
			r.Available++
		}
		r.Members = append(r.Members, mr)
	}
	return r
}

// numbers are those of members that share a name, since they differ only in what is not told:
// by ID, so that the order in the configuration does not matter.
func (g *Group) numbers() map[*Member]int {
	twins := make(map[string][]*Member)
	for _, ref := range g.health.Members() {
		m := ref.Value.(*Member)
		twins[m.Name] = append(twins[m.Name], m)
	}
	number := make(map[*Member]int)
	for _, members := range twins {
		if len(members) == 1 {
			continue
		}
		slices.SortStableFunc(members, func(a, b *Member) int { return strings.Compare(a.ID(), b.ID()) })
		for i, m := range members {
			number[m] = i + 1
		}
	}
	return number
}

// report tells what the member is now, but for what its group makes of it.
func (m *Member) report(now time.Time) MemberReport {
	return MemberReport{
		Report: m.Report(now), ID: m.ID(), Name: m.Name, Address: m.Spec.Addr.dialed(), Key: m.key,
		Priority: m.Spec.Priority, Weight: m.Spec.Weight,
		Full: m.Full(Upgrade), Pool: m.Conns.Pool.Stats(), Counts: m.Health.counts.now(),
		Known: m.Health.known, LastFault: m.Health.fault.Load(), state: m.Health,
	}
}

// States are the words for the state of an upstream, the gravest first. It is in one of
// them.
var States = [...]string{"maint", "drain", "auth_failed", "down", "circuit_open", "half_open", "spared", "overloaded", "refusing", "full", "up"}

// State is the word for the state of an upstream. With `up`, `full`, `refusing`, `overloaded`
// and `spared` it is in rotation: `full` is at a limit of its own, a `refusing` one refuses our
// credentials for so much that others are asked first for what it has never reached, an
// `overloaded` one has asked for less, and a `spared` one would be out if the group could do
// without it.
func (m *MemberReport) State() string {
	switch {
	case m.Admin == health.Maint:
		return "maint"
	case m.Admin == health.Drain:
		return "drain"
	case m.AuthFault:
		return "auth_failed"
	case m.Active == health.Down:
		return "down"
	case m.Circuit == health.Open:
		return "circuit_open"
	case m.Circuit == health.HalfOpen:
		return "half_open"
	case m.Spared:
		return "spared"
	case !m.Overloaded.IsZero():
		return "overloaded"
	case m.Refusing:
		return "refusing"
	case m.Full:
		return "full"
	}
	return "up"
}
