package egress

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the life of a group of upstream proxies: how it comes to its
// members, and how it lets go of them.

// group is an UpstreamGroup at work.
type group struct {
	name         string
	cfg          *UpstreamGroup
	lb           LoadBalancing
	policy       selection.Policy
	budget       *retry.Budget
	path         *pathUse
	destinations *destination.Path // through this group
	targets      map[string]*checkTarget
	health       *health.Group
	checker      *health.Checker // nil without active checks, and before they begin
	checks       *activeChecks   // nil without
	ctx          caddy.Context
	events       eventQueue
	factory      *memberFactory
	dry          bool // see Handler.dry
	logger       *zap.Logger

	view    atomic.Pointer[groupView]
	frozen  atomic.Pointer[groupView] // of a group whose configuration has gone
	watcher *filewatch.Watcher
	source  reverseproxy.UpstreamSource
	stop    chan struct{}

	mu      sync.Mutex // guards checker, and what follows: changes of members
	closed  bool
	members map[string]*member // by identity
	static  []*upstreamSpec
	listed  []*upstreamSpec // of the file
	dynamic []*upstreamSpec
}

// provisionGroups sets up the groups of upstream proxies.
func (h *Handler) provisionGroups(ctx caddy.Context) error {
	h.groups = make(map[string]*group, len(h.Groups))
	for name, cfg := range h.Groups {
		if err := h.provisionGroup(ctx, name, cfg); err != nil {
			return fmt.Errorf("groups.%s: %w", name, err)
		}
	}
	h.awaitStart(ctx)
	return nil
}

func (h *Handler) provisionGroup(ctx caddy.Context, name string, cfg *UpstreamGroup) error {
	if err := checkGroupName(name); err != nil {
		return err
	}
	if cfg == nil {
		return errors.New("is null")
	}
	g := &group{
		name:    name,
		cfg:     cfg,
		lb:      cfg.LoadBalancing.withDefaults(),
		dry:     h.dry,
		logger:  h.logger.Named("upstreams").With(zap.String("group", name)),
		ctx:     ctx,
		events:  eventQueue{ctx: ctx},
		stop:    make(chan struct{}),
		members: make(map[string]*member),
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	if err := g.lb.validate(); err != nil {
		return err
	}
	h.groups[name] = g // from here on Cleanup closes it
	if err := g.acquirePath(h); err != nil {
		return err
	}
	if err := g.provisionModules(ctx); err != nil {
		return err
	}
	healthConfig, err := g.healthConfig(h.fallsBack(name))
	if err != nil {
		return err
	}
	g.budget = retry.NewBudget(*g.lb.RetryBudget, max(g.lb.Retries, 0))
	g.health = health.NewGroup(healthConfig)
	if g.factory, err = h.newMemberFactory(ctx, g); err != nil {
		return err
	}
	if err := g.loadMembers(); err != nil {
		return err
	}
	return g.prepareChecks()
}

// fallsBack reports whether a route has another way than this group, over which
// destinations can be seen to answer.
func (h *Handler) fallsBack(name string) bool {
	for _, r := range h.Routes {
		if r != nil && r.To == name && r.Fallback != "" && r.Fallback != targetDeny {
			return true
		}
	}
	return false
}

// provisionModules loads what the configuration names as modules.
func (g *group) provisionModules(ctx caddy.Context) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	g.events.app = app.(*caddyevents.App)
	g.policy, err = selection.Load(ctx, &g.lb, "SelectionPolicyRaw", g.lb.SelectionPolicyRaw, new(selection.EWMA))
	if err != nil {
		return fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	if len(g.cfg.DynamicRaw) == 0 {
		return nil
	}
	module, err := ctx.LoadModule(g.cfg, "DynamicRaw")
	if err != nil {
		return fmt.Errorf("dynamic: %w", err)
	}
	var ok bool
	if g.source, ok = module.(reverseproxy.UpstreamSource); !ok {
		return fmt.Errorf("dynamic: %T is no source of upstreams", module)
	}
	return nil
}

// healthConfig is what the settings mean for the health of the members.
func (g *group) healthConfig(otherPath bool) (health.GroupConfig, error) {
	c := g.cfg.Circuit.withDefaults()
	if err := c.validate(); err != nil {
		return health.GroupConfig{}, err
	}
	slowStart := g.cfg.SlowStart
	setDefault(&slowStart, caddy.Duration(30*time.Second))
	cfg := health.GroupConfig{OtherPath: otherPath, UpstreamConfig: health.DefaultUpstreamConfig()}
	cfg.ConsecutiveFailures = c.ConsecutiveFailures
	cfg.MinSuccessRate = *c.MinSuccessRate
	cfg.Window = time.Duration(c.Window)
	cfg.MinSamples = c.MinSamples
	cfg.OpenFor = time.Duration(c.OpenFor)
	cfg.MaxOpenFor = time.Duration(c.MaxOpenFor)
	cfg.MaxEjected = *c.MaxEjected
	cfg.PanicBelow = *c.PanicBelow
	cfg.SlowStart = max(time.Duration(slowStart), 0)
	if err := cfg.UpstreamConfig.Validate(); err != nil {
		return cfg, fmt.Errorf("circuit.%w", err)
	}
	return cfg, nil
}

// loadMembers finds the members that are known at provision, and begins to follow
// those that come and go.
func (g *group) loadMembers() error {
	repl := caddy.NewReplacer()
	for i, u := range g.cfg.Upstreams {
		if u == nil {
			return fmt.Errorf("upstreams[%d]: is null", i)
		}
		s, err := g.cfg.spec(u, repl)
		if err != nil {
			return fmt.Errorf("upstreams[%d]: %w", i, err)
		}
		g.static = append(g.static, s)
	}
	if g.cfg.File != "" {
		g.watcher = filewatch.New(g.cfg.File)
		listed, err := g.readFile()
		if err != nil {
			return err
		}
		g.listed = listed
	}
	if len(g.static)+len(g.listed) == 0 && g.source == nil {
		return fmt.Errorf("file: %s has no upstreams", g.cfg.File)
	}
	if told := g.path.Value.source.Load(); told != nil {
		// A reload: until the source has answered again, its members of before are
		// those that there are.
		dynamic, err := g.dynamicSpecs(*told)
		if err != nil {
			return err
		}
		g.dynamic = dynamic
	}
	if err := g.apply(); err != nil {
		return err
	}
	if g.dry {
		return nil
	}
	if g.watcher != nil {
		g.watcher.Start(g.reloadFile)
	}
	if g.source != nil {
		go g.followSource()
	}
	return nil
}

// apply makes the members what the sources say they are. Members that stay are not
// touched. One that is named twice is an error where it is written twice in the
// configuration, and counts once otherwise.
func (g *group) apply() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	next := make(map[string]*member)
	ordered := make([]*health.Member, 0, len(g.members))
	var fresh []*member
	add := func(s *upstreamSpec, unique bool) error {
		id := s.healthID(g.name)
		if next[id] != nil {
			if unique {
				return fmt.Errorf("upstreams: %s stands twice", s.addr)
			}
			return nil
		}
		m := g.members[id]
		if m == nil || !m.spec.same(s) {
			var err error
			if m, err = g.factory.member(s, id); err != nil {
				return fmt.Errorf("%s: %w", s.addr, err)
			}
			fresh = append(fresh, m)
		}
		next[id] = m
		ordered = append(ordered, &m.ref)
		return nil
	}
	for i, list := range [][]*upstreamSpec{g.static, g.listed, g.dynamic} {
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

// current is a copy of the members by identity; of no group, none.
func (g *group) current() map[string]*member {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.members)
}

func releaseAll(members []*member) {
	for _, m := range members {
		m.release()
	}
}

// close lets go of everything. Requests that are under way finish.
func (g *group) close() {
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
	_ = g.path.Release()
}

// whyNobody says why no member can be used, for the log: a member may be out for
// several reasons, and counts under the first.
func (g *group) whyNobody() error {
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
		case m.Value.(*member).full():
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
		{maint, "taken out by the operator"}, {down, "down by active check"}, {auth, "refusing our credentials"},
		{open, "with an open circuit"}, {full, "at their limit"}, {tried, "tried already"},
	} {
		if reason.n > 0 {
			why = append(why, fmt.Sprintf("%d %s", reason.n, reason.text))
		}
	}
	if len(members) == 0 {
		why = []string{"it has no members"}
	}
	return &noUpstreamError{group: g.name, why: strings.Join(why, ", "), limit: full > 0 && full+tried == len(members)}
}

// noUpstreamError refuses a request because no member of its group can be used.
type noUpstreamError struct {
	group string
	why   string
	limit bool // none is out of order: they are busy
}

// Failure is what it means for the request.
func (e *noUpstreamError) Failure() *failure.Failure {
	if e.limit {
		return failure.Limit
	}
	return failure.NoUpstream
}

func (e *noUpstreamError) Error() string {
	return fmt.Sprintf("no upstream of group '%s' is available: %s", e.group, e.why)
}
