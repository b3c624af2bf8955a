package upstream

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains the life of a group of upstream proxies: how it comes to its
// members, and how it lets go of them.

// Group is a group of upstream proxies at work. It is safe for concurrent use.
type Group struct {
	Name   string
	Budget *retry.Budget // of the requests through the group

	cfg     Config
	targets map[string]*CheckTarget
	unknown sync.Map // names of targets that cannot be looked up
	health  *health.Group
	checker *health.Checker // nil without active checks, and before they begin
	events  *events.Queue

	resolution atomic.Uint32 // see Resolution

	view    atomic.Pointer[groupView]
	frozen  atomic.Pointer[groupView] // of a group whose configuration has gone
	watcher *filewatch.Watcher        // nil without a file
	stop    chan struct{}

	beginning chan struct{} // closed once there were members, or every source was asked
	begun     func()        // closes it

	recalled []*shared.Use[*Told] // what the sources told last
	told     *shared.Use[*told]   // what was told of the group last

	mu      sync.Mutex // guards checker, and what follows: changes of members
	closed  bool
	members map[string]*Member // by health ID
	held    map[*Health]bool   // those of the members; guarded by identities.mu
	past    bool               // its configuration ran before the one that runs; guarded by identities.mu
	static  []*Spec
	listed  []*Spec          // of the file
	dynamic [][]*Spec        // of each source
	unasked int              // sources that have not answered or failed yet
	early   map[string]error // by source: what became of it before Start
}

// New makes a group with the members that are known now. It dials nobody and follows
// nothing before Follow and Start. Close ends it, also where New has failed.
func New(cfg Config) (*Group, error) {
	g := &Group{
		Name:    cfg.Name,
		Budget:  retry.NewBudget(cfg.Balancing.RetryBudget, max(cfg.Balancing.Retries, 0)),
		cfg:     cfg,
		health:  health.NewGroup(cfg.Health),
		events:  events.To(cfg.Events),
		stop:    make(chan struct{}),
		members: make(map[string]*Member),
		static:  cfg.Static,

		beginning: make(chan struct{}),
	}
	g.begun = sync.OnceFunc(func() { close(g.beginning) })
	var err error
	if g.told, err = sharedTold.Use(shared.Digest(cfg.Handler, cfg.Name), func() (*told, error) { return new(told), nil }); err != nil {
		return nil, err
	}
	if err := g.loadMembers(); err != nil {
		g.Close()
		return nil, err
	}
	if err := g.prepareChecks(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// Balancing is how requests are shared among the members.
func (g *Group) Balancing() *Balancing { return &g.cfg.Balancing }

// Destinations are those that were asked for through the group.
func (g *Group) Destinations() *destination.Path { return g.cfg.Destinations }

// loadMembers finds the members that are known at provision.
func (g *Group) loadMembers() error {
	if g.cfg.File != "" {
		g.watcher = filewatch.New(g.cfg.File, g.cfg.Logger)
		listed, err := g.readFile()
		if err != nil {
			return err
		}
		g.listed = listed
		g.tellSource(g.cfg.File, nil)
	}
	if len(g.static)+len(g.listed)+len(g.cfg.Sources) == 0 {
		return g.noneListed()
	}
	if err := g.recallSources(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.apply()
}

// Follow begins to follow the members that come and go.
func (g *Group) Follow() {
	if g.watcher != nil {
		g.watcher.Start(g.reloadFile)
	}
	for i := range g.cfg.Sources {
		go g.followSource(i)
	}
}

// apply makes the members what the sources say they are. Members that stay are not
// touched. One that is named twice is an error where it is written twice in the
// configuration, and counts once otherwise. g.mu is held.
func (g *Group) apply() error {
	if g.closed {
		return nil
	}
	identities.giving.Lock()
	defer identities.giving.Unlock()
	next, err := g.nextMembers()
	if err != nil {
		return err
	}
	before, was := g.before(), g.health.Members()
	g.hold(next.healths())
	g.renumber(before, next.healths())
	if err := g.health.SetMembers(next.ordered); err != nil {
		g.hold(healthsOf(was))
		releaseAll(next.fresh)
		return err
	}
	for _, m := range next.fresh {
		if g.events.Started() {
			m.start()
		}
	}
	for id, m := range g.members {
		if next.byID[id] != m {
			m.release()
		}
	}
	g.members = next.byID
	resolution := ByNobody
	for _, m := range g.members {
		if m.TakesAddrs() {
			resolution |= Here
		} else {
			resolution |= ByUpstream
		}
	}
	g.resolution.Store(uint32(resolution))
	if g.runs() {
		orders.Of.Look()
	}
	if len(g.members) > 0 {
		g.begun()
	}
	return nil
}

// nextMembers are members that come to be those of a group.
type nextMembers struct {
	byID    map[string]*Member // by health ID
	ordered []*health.Member
	fresh   []*Member // that are not members yet
}

func (n *nextMembers) healths() []*Health { return healthsOf(n.ordered) }

func healthsOf(members []*health.Member) []*Health {
	all := make([]*Health, len(members))
	for i, m := range members {
		all[i] = m.Value.(*Member).Health
	}
	return all
}

// nextMembers makes the members that the sources tell of. g.mu is held, and
// identities.giving.
func (g *Group) nextMembers() (*nextMembers, error) {
	lists := append([][]*Spec{g.static, g.listed}, g.dynamic...)
	keys := keysOf(lists...)
	next := &nextMembers{byID: make(map[string]*Member), ordered: make([]*health.Member, 0, len(g.members))}
	add := func(s *Spec, unique bool) error {
		id := s.healthID(g.Name)
		if next.byID[id] != nil {
			if unique {
				return fmt.Errorf("upstreams: %s stands twice", s.Addr)
			}
			return nil
		}
		m, key := g.members[id], keys.take(s)
		if m == nil || m.key != key || !m.Spec.same(s) {
			var err error
			if m, err = g.newMember(s, id, key); err != nil {
				return fmt.Errorf("%s: %w", s.Addr, err)
			}
			next.fresh = append(next.fresh, m)
		}
		next.byID[id] = m
		next.ordered = append(next.ordered, &m.ref)
		return nil
	}
	for i, list := range lists {
		for _, s := range list {
			if err := add(s, i == 0); err != nil {
				releaseAll(next.fresh)
				return nil, err
			}
		}
	}
	return next, nil
}

// Current is a copy of the members by identity; of no group, none.
func (g *Group) Current() map[string]*Member {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.members)
}

// releaseAll releases members. identities.giving is held.
func releaseAll(members []*Member) {
	for _, m := range members {
		m.release()
	}
}

// Close lets go of everything. Requests that are under way finish.
func (g *Group) Close() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.closed = true // from here on, the sources change nothing
	close(g.stop)
	members, checker := slices.Collect(maps.Values(g.members)), g.checker
	g.mu.Unlock()
	if g.watcher != nil {
		g.watcher.Stop()
	}
	if checker != nil {
		checker.Stop()
	}
	// Requests that came before may still choose among those that there are now.
	g.told.Value.leave(g)
	if g.health != nil {
		g.frozen.Store(g.look(time.Now()))
		g.health.Close()
	}
	identities.giving.Lock()
	g.letGo()
	releaseAll(members)
	identities.giving.Unlock()
	_ = g.told.Release() // forgetting it does not fail
	for _, told := range g.recalled {
		_ = told.Release()
	}
}

// whyNobody says why no member can be used, for the log: a member may be out for
// several reasons, and counts under the first.
func (g *Group) whyNobody(now time.Time, client health.Client, destination string) error {
	o, withheld, forbidden := g.countOut(now, client, destination)
	full := o[outFull]
	return &NobodyError{Group: g.Name, why: o.String(), limit: full > 0 && full+o[outTried] == o.sum(), withheld: withheld, forbidden: forbidden}
}

// Why a member cannot be used; out counts members by that.
const (
	outAdmin = iota
	outDown
	outAuth
	outOpen
	outFull
	outForClient
	outForHost
	outTried
	outReasons
)

type out [outReasons]int

// countOut also tells whether any member passes the request over that serves others, and
// whether any forbids the destination.
func (g *Group) countOut(now time.Time, client health.Client, destination string) (o out, withheld, forbidden bool) {
	d := health.Destination(destination)
	keeps := g.health.Keeping(now, client, d)
	for _, m := range g.health.Members() {
		why := m.Value.(*Member).whyOut(keeps(m))
		o[why]++
		withheld = withheld || why == outForClient && m.Upstream.KnowsAny()
		forbidden = forbidden || why == outForHost && m.Upstream.Forbids(now, d)
	}
	return o, withheld, forbidden
}

func (m *Member) whyOut(kept health.Kept) int {
	switch s := m.Health.Status(); {
	case s.Admin != health.Ready:
		return outAdmin
	case s.Active == health.Down:
		return outDown
	case s.AuthFault:
		return outAuth
	case s.Circuit != health.Closed:
		return outOpen
	case m.Full(Upgrade):
		return outFull
	}
	switch kept {
	case health.KeptClient:
		return outForClient
	case health.KeptHost:
		return outForHost
	}
	return outTried
}

func (o out) sum() (n int) {
	for _, of := range o {
		n += of
	}
	return n
}

func (o out) String() string {
	var why []string
	for reason, text := range [outReasons]string{
		outAdmin:     "taken out by the operator",
		outDown:      "down by active check",
		outAuth:      "refusing our credentials",
		outOpen:      "with an open circuit",
		outFull:      "at their limit",
		outForClient: "refusing our credentials for much that this client asks for",
		outForHost:   "refusing our credentials for this destination",
		outTried:     "tried already",
	} {
		if o[reason] > 0 {
			why = append(why, fmt.Sprintf("%d %s", o[reason], text))
		}
	}
	if len(why) == 0 {
		return "it has no members"
	}
	return strings.Join(why, ", ")
}

// NobodyError refuses a request because no member of its group can be used.
type NobodyError struct {
	Group string
	why   string
	limit bool // none is out of order: they are busy

	// withheld: there are members that serve others, and refuse our credentials for what
	// this one asks for.
	withheld bool

	forbidden bool // a member refuses them for the destination, and they are good
}

// FallsBack reports whether a fallback takes the request. What one client brings about is no
// way past the group, and what a member forbids none past all groups.
func (e *NobodyError) FallsBack(direct bool) bool { return !e.withheld && !(e.forbidden && direct) }

// Failure is what it means for the request.
func (e *NobodyError) Failure() *failure.Failure {
	if e.limit {
		return failure.Limit
	}
	return failure.NoUpstream
}

func (e *NobodyError) Error() string {
	return fmt.Sprintf("no upstream of group '%s' is available: %s", e.Group, e.why)
}
