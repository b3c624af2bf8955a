package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Errors that a check function wraps to say more than that it failed.
var (
	// ErrUnreachable: the upstream itself could not be reached, so the failure is
	// its own whatever happens to others with the same target.
	ErrUnreachable = errors.New("upstream is unreachable")

	// ErrUnauthorized: the upstream answered 407. That is no failure of the check
	// but an authentication fault, which counts as one of a request does.
	ErrUnauthorized = errors.New("upstream refused the credentials")
)

// errImpossible is a check that could not be made. It says nothing, neither about the
// upstream nor about the target.
var errImpossible = errors.New("check is not possible")

// CheckerConfig is the tuning of active checks. It is immutable once it is in use.
// Start from [DefaultCheckerConfig].
type CheckerConfig struct {
	// Identity is the same for checks that ask the same and expect the same. The results of
	// another one do not count.
	Identity string

	Interval     time.Duration // between checks of an upstream whose state is steady
	FastInterval time.Duration // while its state is changing
	MaxInterval  time.Duration // up to which checks slow down by 1.6 while it is down
	IdleInterval time.Duration // while nobody uses the group
	Timeout      time.Duration // of a check, for each target
	Jitter       float64       // share by which intervals vary either way, but the fast one
	Rise, Fall   int           // results in a row that bring an upstream up, or down
	Concurrency  int           // checks at once

	// Targets are what to reach through the upstream. They are tried in order;
	// one that passes is enough. None: the upstream itself is all there is to
	// check, and each failure is its own.
	Targets []string

	// ProvesAuth: a check that passes shows that the upstream accepts the
	// credentials, so it ends an authentication fault.
	ProvesAuth bool

	// Prepare finds out what Check needs and is no matter of the upstream's, and hands it
	// on in the context. That takes nothing of Timeout, and where it fails, the check is
	// not possible: the upstream stays what it is. It must return soon after ctx is done.
	// Optional.
	Prepare func(ctx context.Context, m *Member, target string) (context.Context, error)

	// Heir reports whether another Checker of the member is to come, to which a check under
	// way may be left. Optional.
	Heir func(m *Member) bool

	// Check checks one target ("" without targets) through a member. It must
	// return soon after ctx is done. Required.
	Check func(ctx context.Context, m *Member, target string) error

	// CheckSelf checks the upstream itself: that it can be connected to. It is asked
	// where a target fails through the last member in rotation, or through one that is
	// down while nobody is. Optional.
	CheckSelf func(ctx context.Context, m *Member) error

	// OnSpared is told that the targets fail through the last member in rotation, which
	// stays: once, until a check passes. It is called like OnTransition. Optional.
	OnSpared func(*Member, error)

	// OnTransition and OnResult are told of edges and of every check. They are
	// called by the scheduler outside any lock, one at a time: they should return
	// soon, and must not call Stop. Optional.
	OnTransition func(*Member, Transition)
	OnResult     func(*Member, CheckResult)

	// OnUnchecked is told that there will be no result of a check that was asked for: the
	// member has gone, is not to be checked, or is checked in another way by now. It is
	// called like OnResult. Optional.
	OnUnchecked func(*Checker, *Member)
}

// DefaultCheckerConfig returns the defaults.
func DefaultCheckerConfig() CheckerConfig {
	return CheckerConfig{
		Interval:     10 * time.Second,
		FastInterval: time.Second,
		MaxInterval:  60 * time.Second,
		IdleInterval: 60 * time.Second,
		Timeout:      3 * time.Second,
		Jitter:       0.2,
		Rise:         2,
		Fall:         3,
		Concurrency:  32,
	}
}

// Validate reports the first setting that makes no sense, under the name that it
// has in the configuration where it has one.
func (c *CheckerConfig) Validate() error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"health_interval", c.Interval},
		{"fast interval of health checks", c.FastInterval},
		{"longest interval of health checks", c.MaxInterval},
		{"idle interval of health checks", c.IdleInterval},
		{"health_timeout", c.Timeout},
	} {
		if d.d <= 0 {
			return fmt.Errorf("%s: %s is not positive", d.name, d.d)
		}
	}
	switch {
	case c.Rise < 1:
		return fmt.Errorf("health_passes: %d is too low: at least 1", c.Rise)
	case c.Fall < 1:
		return fmt.Errorf("health_fails: %d is too low: at least 1", c.Fall)
	case c.Concurrency < 1:
		return fmt.Errorf("concurrency of health checks: %d is too low: at least 1", c.Concurrency)
	case !(c.Jitter >= 0 && c.Jitter < 1):
		return fmt.Errorf("jitter of health checks: %v is not between 0 and 1", c.Jitter)
	case c.Check == nil:
		return errors.New("no function to check with")
	}
	return nil
}

func (c *CheckerConfig) pace() pace {
	return pace{c.Interval, c.FastInterval, c.IdleInterval, c.MaxInterval}
}

// Checker runs the active checks of one group: one goroutine that schedules, and
// one for each check under way. Members may come and go at run time.
type Checker struct {
	group  *Group
	cfg    CheckerConfig
	random func() float64 // in [0, 1); replaced by tests

	wake    chan struct{}
	results chan result
	cancel  context.CancelFunc
	done    chan struct{}

	mu   sync.Mutex
	asks map[*Upstream]*Member // to check at once; nil: a result was left, see leave

	schedule schedule // of the scheduler alone
}

// StartChecker starts checking the members of g. A group has one Checker at a time.
func StartChecker(g *Group, cfg CheckerConfig) (*Checker, error) {
	return startChecker(g, cfg, rand.Float64)
}

func startChecker(g *Group, cfg CheckerConfig, random func() float64) (*Checker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Checker{
		group:   g,
		cfg:     cfg,
		random:  random,
		wake:    make(chan struct{}, 1),
		results: make(chan result),
		cancel:  cancel,
		done:    make(chan struct{}),
		asks:    make(map[*Upstream]*Member),
	}
	c.schedule.entries = make(map[*Upstream]*entry)
	if !g.checker.CompareAndSwap(nil, c) {
		cancel()
		return nil, errors.New("group of upstreams has a checker already")
	}
	c.sync(instantOf(time.Now())) // at once, so that who stops behind us knows
	go c.run(ctx)
	return c, nil
}

// Stop ends all checks at once; those under way count as nothing. It returns when
// the last of them has. But where another Checker makes the same check of an upstream, or is
// to come, one under way goes on, and its result is the other's.
func (c *Checker) Stop() {
	c.group.checker.CompareAndSwap(c, nil)
	c.cancel()
	<-c.done
}

// CheckNow asks for a check of a member at once, which may be one of another group with the
// same upstream. While one is under way, another one follows it.
func (c *Checker) CheckNow(m *Member) {
	c.ask(m.Upstream, m)
}

// Done is closed when it has ended.
func (c *Checker) Done() <-chan struct{} { return c.done }

// Checker is who makes the checks of the upstream that count: own, if that does, or one of
// another group; nil for nobody.
func (u *Upstream) Checker(own *Checker) *Checker {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.checks.by); n > 0 && !slices.Contains(u.checks.by, own) {
		return u.checks.by[n-1]
	} else if n > 0 {
		return own
	}
	return nil
}

func (c *Checker) unchecked(m *Member) {
	if c.cfg.OnUnchecked != nil {
		c.cfg.OnUnchecked(c, m)
	}
}

// ask has an upstream looked after at once, and checked for a member; nil for nobody.
func (c *Checker) ask(u *Upstream, m *Member) {
	c.mu.Lock()
	if m != nil || c.asks[u] == nil {
		c.asks[u] = m
	}
	c.mu.Unlock()
	c.poke()
}

// poke wakes the scheduler; it never blocks.
func (c *Checker) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run is the scheduler.
func (c *Checker) run(ctx context.Context) {
	defer close(c.done)
	defer func() {
		for _, e := range c.schedule.entries {
			if e.held != nil {
				c.hand(e.m, *e.held)
			}
			e.m.Upstream.letGoOfChecks(c, e.m)
		}
	}()
	var checks sync.WaitGroup
	defer checks.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		c.sync(instantOf(now))
		next := c.startDue(ctx, now, &checks)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return
		case r := <-c.results:
			c.finish(time.Now(), r)
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// result is how a check ended, for the scheduler.
type result struct {
	e       *entry
	started time.Time
	took    time.Duration
	err     error
	reached bool // only targets failed: the upstream itself was reached
}

// check runs one check and hands its result to the scheduler.
func (c *Checker) check(ctx context.Context, e *entry, m *Member, started time.Time) {
	own, cut := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan result, 1)
	go func() { ended <- c.examine(own, e, m, started) }()
	select {
	case r := <-ended:
		cut()
		select {
		case c.results <- r:
		case <-ctx.Done():
			c.hand(m, r)
		}
	case <-ctx.Done():
		if g := (&goingOn{cut}); m.Upstream.goOn(c, m, g) {
			c.leave(own, g, m.Upstream, ended)
			return
		}
		cut()
		<-ended
	}
}

// examine makes one check.
func (c *Checker) examine(ctx context.Context, e *entry, m *Member, started time.Time) result {
	r := result{e: e, started: started, err: c.cfg.Try(ctx, m)}
	if c.targetOnly(r.err) && m.Upstream.last() && c.cfg.CheckSelf != nil {
		self := c.checkSelf(ctx, m)
		r.reached = self == nil
		if self != nil {
			r.err = fmt.Errorf("%w: %w", ErrUnreachable, self)
		}
	}
	r.took = time.Since(started)
	return r
}

// Try tries the targets until one passes, and counts nothing. When the upstream itself is the
// trouble, another target would not help. One that cannot be asked for might have passed.
func (c *CheckerConfig) Try(ctx context.Context, m *Member) (err error) {
	var impossible error
	targets := c.Targets
	if len(targets) == 0 {
		targets = []string{""}
	}
	for _, target := range targets {
		err = c.tryOne(ctx, m, target)
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnauthorized) {
			return err
		}
		if errors.Is(err, errImpossible) {
			impossible = err
		}
	}
	if impossible != nil {
		return impossible
	}
	return err
}

// targetOnly reports whether a failure may be the targets'.
func (c *Checker) targetOnly(err error) bool {
	return err != nil && len(c.cfg.Targets) > 0 &&
		!errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrUnauthorized) && !errors.Is(err, errImpossible)
}

func (c *Checker) checkSelf(ctx context.Context, m *Member) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	return c.cfg.CheckSelf(ctx, m)
}

func (c *CheckerConfig) tryOne(ctx context.Context, m *Member, target string) error {
	if c.Prepare != nil {
		var err error
		if ctx, err = c.Prepare(ctx, m, target); err != nil {
			return fmt.Errorf("%w: %w", errImpossible, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return c.Check(ctx, m, target)
}
