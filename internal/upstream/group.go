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
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/retry"
)

// This file contains the life of a group of upstream proxies: how it comes to its
// members, and how it lets go of them.

// Group is a group of upstream proxies at work. It is safe for concurrent use.
type Group struct {
	Name   string
	Budget *retry.Budget // of the requests through the group

	cfg     Config
	targets map[string]*CheckTarget
	health  *health.Group
	checker *health.Checker // nil without active checks, and before they begin
	events  eventQueue

	view    atomic.Pointer[groupView]
	frozen  atomic.Pointer[groupView] // of a group whose configuration has gone
	watcher *filewatch.Watcher        // nil without a file
	stop    chan struct{}

	mu      sync.Mutex // guards checker, and what follows: changes of members
	closed  bool
	members map[string]*Member // by identity
	static  []*Spec
	listed  []*Spec // of the file
	dynamic []*Spec
}

// New makes a group with the members that are known now. It dials nobody and follows
// nothing before Follow and Start. Close ends it, also where New has failed.
func New(cfg Config) (*Group, error) {
	g := &Group{
		Name:    cfg.Name,
		Budget:  retry.NewBudget(cfg.Balancing.RetryBudget, max(cfg.Balancing.Retries, 0)),
		cfg:     cfg,
		health:  health.NewGroup(cfg.Health),
		events:  eventQueue{to: cfg.Events},
		stop:    make(chan struct{}),
		members: make(map[string]*Member),
		static:  cfg.Static,
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
		g.watcher = filewatch.New(g.cfg.File)
		listed, err := g.readFile()
		if err != nil {
			return err
		}
		g.listed = listed
	}
	if len(g.static)+len(g.listed) == 0 && g.cfg.Source == nil {
		return fmt.Errorf("file: %s has no upstreams", g.cfg.File)
	}
	if told := g.cfg.State.source.Load(); told != nil {
		// A reload: until the source has answered again, its members of before are
		// those that there are.
		dynamic, err := g.dynamicSpecs(*told)
		if err != nil {
			return err
		}
		g.dynamic = dynamic
	}
	return g.apply()
}

// Follow begins to follow the members that come and go.
func (g *Group) Follow() {
	if g.watcher != nil {
		g.watcher.Start(g.reloadFile)
	}
	if g.cfg.Source != nil {
		go g.followSource()
	}
}

// apply makes the members what the sources say they are. Members that stay are not
// touched. One that is named twice is an error where it is written twice in the
// configuration, and counts once otherwise.
func (g *Group) apply() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	next := make(map[string]*Member)
	ordered := make([]*health.Member, 0, len(g.members))
	var fresh []*Member
	add := func(s *Spec, unique bool) error {
		id := s.healthID(g.Name)
		if next[id] != nil {
			if unique {
				return fmt.Errorf("upstreams: %s stands twice", s.Addr)
			}
			return nil
		}
		m := g.members[id]
		if m == nil || !m.Spec.same(s) {
			var err error
			if m, err = g.newMember(s, id); err != nil {
				return fmt.Errorf("%s: %w", s.Addr, err)
			}
			fresh = append(fresh, m)
		}
		next[id] = m
		ordered = append(ordered, &m.ref)
		return nil
	}
	for i, list := range [][]*Spec{g.static, g.listed, g.dynamic} {
		for _, s := range list {
			if err := add(s, i == 0); err != nil {
				releaseAll(fresh)
				return err
			}
		}
	}
	if err := g.health.SetMembers(ordered); err != nil {
		releaseAll(fresh)
		return err
	}
	for id, m := range g.members {
		if next[id] != m {
			m.release()
		}
	}
	g.members = next
	return nil
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
	if g.health != nil {
		g.frozen.Store(g.look(time.Now()))
		g.health.Close()
	}
	releaseAll(members)
}

// whyNobody says why no member can be used, for the log: a member may be out for
// several reasons, and counts under the first.
func (g *Group) whyNobody() error {
	var maint, down, auth, open, full, tried int
	members := g.health.Members()
	for _, m := range members {
		switch s := m.Upstream.Status(); {
		case s.Admin != health.Ready:
			maint++
		case s.Active == health.Down:
			down++
		case s.AuthFault:
			auth++
		case s.Circuit != health.Closed:
			open++
		case m.Value.(*Member).full():
			full++
		default:
			tried++
		}
	}
	var why []string
	for _, reason := range []struct {
		n    int
		text string
	}{
		{maint, "taken out by the operator"},
		{down, "down by active check"},
		{auth, "refusing our credentials"},
		{open, "with an open circuit"},
		{full, "at their limit"},
		{tried, "tried already"},
	} {
		if reason.n > 0 {
			why = append(why, fmt.Sprintf("%d %s", reason.n, reason.text))
		}
	}
	if len(members) == 0 {
		why = []string{"it has no members"}
	}
	return &NobodyError{Group: g.Name, why: strings.Join(why, ", "), limit: full > 0 && full+tried == len(members)}
}

// NobodyError refuses a request because no member of its group can be used.
type NobodyError struct {
	Group string
	why   string
	limit bool // none is out of order: they are busy
}

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
