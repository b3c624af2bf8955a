package health

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// GroupConfig is the tuning of a group. It is immutable once it is in use.
type GroupConfig struct {
	UpstreamConfig

	// OtherPath tells that requests may also leave past the group, such as a
	// fallback to direct, so that suspicion can be settled even where the group has
	// one member. Its successes are told with [Group.AnsweredElsewhere].
	OtherPath bool
}

// Member is an upstream in a group. It is immutable.
type Member struct {
	Upstream *Upstream

	// Priority is the tier: lower ones are used first.
	Priority int

	// Value is the caller's own.
	Value any
}

// Group is a set of upstreams that stand in for each other. Its members may change
// at run time; they keep their state. All methods are safe for concurrent use.
type Group struct {
	cfg GroupConfig

	members  atomic.Pointer[[]*Member]
	snapshot atomic.Pointer[Snapshot] // nil: of other members
	stale    atomic.Bool              // the snapshot must be made anew
	probeAt  atomic.Int64             // instant from which a probe may be due; 0: none
	used     atomic.Bool              // asked for since the Checker looked
	checker  atomic.Pointer[Checker]
	edges    chan struct{} // see Edges

	soft    softFails
	cut     softFails // of requests that must not be sent twice
	hangUps hangUps

	mu     sync.Mutex // held while the snapshot or the members are replaced
	closed bool
}

// NewGroup returns a group without members.
func NewGroup(cfg GroupConfig) *Group {
	g := &Group{cfg: cfg, edges: make(chan struct{}, 1)}
	g.members.Store(new([]*Member))
	return g
}

var errClosed = errors.New("group of upstreams is closed")

// SetMembers replaces the members. Upstreams that stay keep their state, those
// that go leave nothing behind here. It is an error to name an upstream twice.
func (g *Group) SetMembers(members []*Member) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	return g.replace(members)
}

// replace is called with mu held.
func (g *Group) replace(members []*Member) error {
	next := make(map[*Upstream]bool, len(members))
	for i, m := range members {
		if m == nil || m.Upstream == nil {
			return fmt.Errorf("member %d of the group has no upstream", i)
		}
		if next[m.Upstream] {
			return fmt.Errorf("member %d of the group is an upstream that is in it already", i)
		}
		next[m.Upstream] = true
	}
	before := make(map[*Upstream]bool)
	for _, m := range g.Members() {
		before[m.Upstream] = true
	}
	members = slices.Clone(members)
	slices.SortStableFunc(members, func(a, b *Member) int { return cmp.Compare(a.Priority, b.Priority) })
	g.members.Store(&members)
	for u := range next {
		if !before[u] {
			u.join(g)
		}
	}
	for u := range before {
		if !next[u] {
			u.leave(g)
		}
	}
	g.snapshot.Store(nil)
	g.outdate()
	if c := g.checker.Load(); c != nil {
		c.poke()
	}
	return nil
}

// Close takes all members out, so that nothing refers to the group any more. Stop its
// Checker first. What is under way may still be observed.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	_ = g.replace(nil) // no members: no error
}

// outdate has the snapshot made anew. It never blocks.
func (g *Group) outdate() {
	g.stale.Store(true)
	select {
	case g.edges <- struct{}{}:
	default:
	}
}

// Edges receives a value after something has changed that Available depends on. Several
// changes may be told as one. It is for one reader.
func (g *Group) Edges() <-chan struct{} { return g.edges }

// Members returns the members, by priority. The slice must not be changed.
func (g *Group) Members() []*Member { return *g.members.Load() }

// Available returns who may be picked at now. It also tells the Checker that the
// group is in use. It allocates only after an edge.
func (g *Group) Available(now time.Time) *Snapshot {
	if !g.used.Load() && !g.used.Swap(true) {
		if c := g.checker.Load(); c != nil {
			c.poke()
		}
	}
	return g.current(now)
}

// current returns the snapshot, anew if need be. Whoever comes while another is at
// that takes the old one.
func (g *Group) current(now time.Time) *Snapshot {
	s := g.snapshot.Load()
	switch {
	case s == nil: // the members have changed: an old one will not do
		g.mu.Lock()
		if s = g.snapshot.Load(); s != nil {
			g.mu.Unlock()
			return s
		}
	case !g.stale.Load() && (s.expires == 0 || instantOf(now) < s.expires), !g.mu.TryLock():
		return s
	}
	defer g.mu.Unlock()
	g.stale.Store(false) // first: an edge while we look makes it stale again
	s, probeAt := survey(instantOf(now), &g.cfg.UpstreamConfig, g.Members())
	g.probeAt.Store(int64(probeAt))
	g.snapshot.Store(s)
	return s
}

// TryProbe returns the member that this request is to probe, if one is due: it
// must go through that member, before any policy is asked, and its result must be
// told to Observe with the token, exactly once. Only tiers that are in use now, or
// before those, are probed, and only members that can take the request; nil takes
// all. A member that is spared gets a trial in the same way. Call it for the first attempt of requests that can be tried again elsewhere,
// and TryOverdueProbe for that of others. client is who has sent the request.
func (g *Group) TryProbe(now time.Time, client Client, takes func(*Member) bool) (m *Member, tok Token, ok bool) {
	return g.tryProbe(now, 0, client, takes)
}

// TryOverdueProbe is TryProbe for requests that are lost if the probe fails, or whose
// client may take its time: they probe only what has been due for OpenFor, and have as
// long to do it. So a group that sees no other requests gets its members back all the
// same.
func (g *Group) TryOverdueProbe(now time.Time, client Client, takes func(*Member) bool) (m *Member, tok Token, ok bool) {
	return g.tryProbe(now, g.cfg.OpenFor, client, takes)
}

// LeaveProbe reports whether a probe is due that a request had better leave to others,
// since its destination (host:port) has failed lately and was not answered since: its
// failure would say nothing. It is for TryOverdueProbe.
func (g *Group) LeaveProbe(now time.Time, destination string) bool {
	t, at := instantOf(now), instant(g.probeAt.Load())
	if !g.stale.Load() && (at == 0 || t < at) {
		return false
	}
	return g.hangUps.failing(t, Destination(destination))
}

func (g *Group) tryProbe(now time.Time, overdue time.Duration, client Client, takes func(*Member) bool) (m *Member, tok Token, ok bool) {
	if g.stale.Load() {
		g.current(now)
	}
	at := instant(g.probeAt.Load())
	if at == 0 {
		return nil, 0, false
	}
	t := instantOf(now.Add(-overdue))
	if t < at {
		return nil, 0, false
	}
	g.mu.Lock() // not while probeAt is made anew
	defer g.mu.Unlock()
	s := g.snapshot.Load()
	if s == nil {
		return nil, 0, false // the members have just changed
	}
	limit := ProbeLimit
	if overdue > 0 {
		limit = overdue
	}
	next := instant(0)
	for _, m := range s.probes {
		at := instant(m.Upstream.probeAt.Load())
		if at != 0 && t >= at && (takes == nil || takes(m)) {
			if tok, ok := m.Upstream.TryProbe(now, &g.cfg.UpstreamConfig, limit, client); ok {
				return m, tok, true
			}
			at = instant(m.Upstream.probeAt.Load())
		}
		next = earlier(next, at)
	}
	g.probeAt.Store(int64(next))
	return nil, 0, false
}

// rounding is more than what a share of a count of members can be off by, so that
// 29 of 100 is 29%.
const rounding = 1e-6

// mayEject reports whether the circuit of u may open, and else why not. Called with
// ejecting held.
func (g *Group) mayEject(u *Upstream) (why SpareCause, ok bool) {
	ready, ejected, others := 0, 0, 0
	for _, m := range g.Members() {
		s := m.Upstream.Status()
		if m.Upstream == u {
			ready++ // also while it is drained: it may come back
			continue
		}
		if s.Admin != Ready {
			continue
		}
		ready++
		if s.ejected() {
			ejected++
		}
		if s.InRotation() {
			others++
		}
	}
	switch {
	case others == 0:
		return SparedLast, false
	case float64(ejected+1) > g.cfg.MaxEjected*float64(ready)+rounding:
		return SparedMaxEjected, false
	}
	return 0, true
}

// Config is the tuning of the circuits of the members. It must not be changed.
func (g *Group) Config() *UpstreamConfig { return &g.cfg.UpstreamConfig }
