package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errTarget = errors.New("no answer of the target")
	errHang   = errors.New("no answer until the context is done")
)

// lab is a group under active checks in a bubble of synctest, and what its members
// answer: an error for each, and one for each target.
type lab struct {
	t     *testing.T
	g     *Group
	c     *Checker
	cfg   CheckerConfig
	start time.Time

	mu      sync.Mutex
	errs    map[int]error
	targets map[string]error
	hang    bool // until the context is done
	running int
	most    int
	checks  []string // "seconds member target"
	edges   []string // "seconds member event"
	results []CheckOutcome
}

// newLab returns a lab of n members, whose checks begin with restart, without jitter.
func newLab(t *testing.T, n int, change func(*CheckerConfig)) *lab {
	l := &lab{
		t: t, g: newGroup(t, n, exactConfig()), start: time.Now(),
		errs: make(map[int]error), targets: make(map[string]error), cfg: DefaultCheckerConfig(),
	}
	l.cfg.Check = l.check
	l.cfg.OnTransition = func(m *Member, tr Transition) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.edges = append(l.edges, fmt.Sprintf("%s %v %s", l.since(), m.Value, tr.Event()))
	}
	l.cfg.OnResult = func(_ *Member, r CheckResult) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.results = append(l.results, r.Outcome)
	}
	if change != nil {
		change(&l.cfg)
	}
	return l
}

func (l *lab) restart() {
	l.t.Helper()
	c, err := startChecker(l.g, l.cfg, func() float64 { return 0.5 })
	if err != nil {
		l.t.Fatal(err)
	}
	l.c = c
}

func (l *lab) since() string { return strings.TrimSuffix(time.Since(l.start).String(), "s") }

func (l *lab) check(ctx context.Context, m *Member, target string) error {
	l.mu.Lock()
	l.checks = append(l.checks, strings.TrimSpace(fmt.Sprintf("%s %v %s", l.since(), m.Value, target)))
	l.running++
	l.most = max(l.most, l.running)
	hang, err := l.hang, errors.Join(l.errs[m.Value.(int)], l.targets[target])
	l.mu.Unlock()
	if hang || errors.Is(err, errHang) {
		<-ctx.Done()
		err = ctx.Err()
	}
	l.mu.Lock()
	l.running--
	l.mu.Unlock()
	return err
}

func (l *lab) set(err error, members ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range members {
		l.errs[i] = err
	}
}

func (l *lab) setHang(hang bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hang = hang
}

// outcomes returns what the checks since the last call found.
func (l *lab) outcomes() []CheckOutcome {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.results
	l.results = nil
	return r
}

func (l *lab) setTarget(target string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets[target] = err
}

// wait lets time pass while the group is in use.
func (l *lab) wait(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		l.g.Available(time.Now())
		time.Sleep(min(100*time.Millisecond, time.Until(end)))
	}
	synctest.Wait()
}

// take returns what was recorded since the last call.
func (l *lab) take(what *[]string) string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.Join(*what, ", ")
	*what = nil
	return s
}

func (l *lab) expect(name string, what *[]string, want string) {
	l.t.Helper()
	if got := l.take(what); got != want {
		l.t.Errorf("%s: %q, want %q", name, got, want)
	}
}

func (l *lab) status(i int) Status { return l.g.Members()[i].Upstream.Status() }

func TestCheckerTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(25 * sec)
		l.expect("up", &l.checks, "0 0, 10 0, 20 0")
		l.set(errTarget, 0)
		l.wait(80*sec - 1)
		l.expect("falls after 3, then ever less often", &l.checks, "30 0, 31 0, 32 0, 42 0, 58 0, 1m23.6 0")
		l.expect("edges", &l.edges, "0 0 , 32 0 unhealthy")
		l.wait(10 * time.Minute)
		l.set(nil, 0)
		l.wait(100 * sec)
		if got := l.take(&l.edges); !strings.HasSuffix(got, " 0 healthy") || strings.Contains(got, ",") {
			t.Errorf("rises: %q", got)
		}
	})
}

// TestCheckerTimesWhileDown: 10 s × 1.6ⁿ up to a minute; and rise 2 at the fast pace.
func TestCheckerTimesWhileDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		defer func() { l.c.Stop() }()
		l.set(errTarget, 0)
		l.restart()
		l.wait(4 * time.Minute)
		l.expect("down at once", &l.checks, "0 0, 10 0, 26 0, 51.6 0, 1m32.56 0, 2m32.56 0, 3m32.56 0")
		l.set(nil, 0)
		l.wait(50 * sec)
		l.expect("back", &l.checks, "4m32.56 0, 4m33.56 0, 4m43.56 0")
		l.expect("edges", &l.edges, "0 0 unhealthy, 4m33.56 0 healthy")
	})
}

func TestCheckerIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		defer func() { l.c.Stop() }()
		l.restart()
		time.Sleep(135 * sec)
		l.expect("nobody uses it", &l.checks, "0 0, 10 0, 1m10 0, 2m10 0")
		l.wait(11 * sec) // in use again at 135: 10 s after the last one
		l.expect("in use", &l.checks, "2m20 0")
		time.Sleep(64 * sec) // the interval under way was one in use
		l.expect("unused again", &l.checks, "2m30 0, 2m40 0")
		time.Sleep(50 * sec) // until 4m20
		l.expect("unused still", &l.checks, "3m40 0")
		l.wait(10 * sec) // overdue: within an interval; here after half of one
		l.expect("overdue", &l.checks, "4m25 0")
	})
}

func TestCheckerJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		var times []time.Time
		l.cfg.Check = func(context.Context, *Member, string) error {
			times = append(times, time.Now())
			return nil
		}
		c, err := StartChecker(l.g, l.cfg)
		if err != nil {
			t.Fatal(err)
		}
		l.wait(1000 * sec)
		c.Stop()
		distinct := make(map[time.Duration]bool)
		for i := 2; i < len(times); i++ {
			d := times[i].Sub(times[i-1])
			if d < 8*sec || d > 12*sec {
				t.Errorf("%s between checks", d)
			}
			distinct[d.Round(100*time.Millisecond)] = true
		}
		if len(times) < 83 || len(distinct) < 10 {
			t.Errorf("%d checks, %d distinct intervals", len(times), len(distinct))
		}
	})
}

func TestCheckerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, func(c *CheckerConfig) { c.Targets = []string{"a", "b"} })
		defer func() { l.c.Stop() }()
		l.setHang(true)
		l.restart()
		l.wait(7 * sec)
		l.expect("each target has its time", &l.checks, "0 0 a, 3 0 b")
		l.expect("edges", &l.edges, "6 0 unhealthy")
	})
}

func TestCheckerTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, func(c *CheckerConfig) { c.Targets = []string{"a", "b"} })
		defer func() { l.c.Stop() }()
		l.setTarget("a", errTarget)
		l.restart()
		l.wait(15 * sec)
		l.expect("one that passes is enough", &l.checks, "0 0 a, 0 0 b, 10 0 a, 10 0 b")
		l.setTarget("a", nil)
		l.setTarget("b", errTarget)
		l.wait(10 * sec)
		l.expect("the first will do", &l.checks, "20 0 a")
		l.set(ErrUnreachable, 0)
		l.wait(10 * sec)
		l.expect("no other target helps", &l.checks, "30 0 a, 31 0 a, 32 0 a")
		l.expect("edges", &l.edges, "0 0 , 32 0 unhealthy")
	})
}

// TestTargetDown: when every member fails the same target, they are not to blame,
// however long it takes and whoever notices first.
func TestTargetDown(t *testing.T) {
	for n := 2; n <= 5; n++ {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, n, func(c *CheckerConfig) { c.Targets = []string{"a"} })
			defer func() { l.c.Stop() }()
			l.restart()
			l.wait(12 * sec)
			l.take(&l.edges)
			// The members are not checked at the same time.
			l.c.CheckNow(l.g.Members()[0])
			l.wait(3 * sec)
			l.outcomes()
			l.setTarget("a", errTarget)
			l.wait(5 * time.Minute)
			l.expect("edges", &l.edges, "")
			results := l.outcomes()
			if slices.ContainsFunc(results, func(o CheckOutcome) bool { return o != Inconclusive }) {
				t.Errorf("%d members: %v", n, results)
			}
			if len(results) < 20*n || len(results) > 40*n {
				t.Errorf("%d members: %d checks in 5 minutes", n, len(results))
			}
			// One that reaches it tells on the others.
			l.set(errTarget, 0)
			l.setTarget("a", nil)
			l.wait(15 * sec)
			if got := l.take(&l.edges); !strings.HasSuffix(got, " 0 unhealthy") || strings.Contains(got, ",") {
				t.Errorf("edges: %q", got)
			}
		})
	}
}

// TestOneFails: another member is asked after the failure, and then it counts.
func TestOneFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(5 * sec)
		l.take(&l.edges)
		l.take(&l.checks)
		l.set(errTarget, 1)
		l.c.CheckNow(l.g.Members()[1])
		l.wait(3 * sec)
		l.expect("edges", &l.edges, "7 1 unhealthy")
		if n := len(strings.Split(l.take(&l.checks), ",")); n != 6 {
			t.Errorf("%d checks, want 3 and a witness to each", n)
		}
	})
}

// TestOneFailsSlowly: a pass of another one while the check was under way is proof
// enough.
func TestOneFailsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(4 * sec)
		l.take(&l.checks)
		l.set(errHang, 0)
		l.c.CheckNow(l.g.Members()[0])
		l.wait(sec)
		l.c.CheckNow(l.g.Members()[1])
		l.wait(2500 * time.Millisecond)
		l.expect("no witness was needed", &l.checks, "4 0 a, 5 1 a")
		if r := l.outcomes(); len(r) != 4 || r[3] != Failed {
			t.Errorf("%v", r)
		}
	})
}

// TestAllUnreachable: that is not the target's fault.
func TestAllUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		defer func() { l.c.Stop() }()
		l.set(fmt.Errorf("%w: refused", ErrUnreachable), 0, 1, 2)
		l.restart()
		l.wait(sec)
		for i := range 3 {
			if l.status(i).Active != Down {
				t.Errorf("%d is %s", i, l.status(i).Active)
			}
		}
	})
}

// TestNoTargets: what has no target fails for itself.
func TestNoTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, nil)
		defer func() { l.c.Stop() }()
		l.set(errTarget, 0, 1, 2)
		l.restart()
		l.wait(sec)
		if l.status(0).Active != Down || l.status(2).Active != Down {
			t.Error("not down")
		}
	})
}

// TestHeldByOneThatLeaves: a failure that waits for a member is not left waiting
// when that member goes.
func TestHeldByOneThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Targets = []string{"a"}; c.Timeout = time.Hour })
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(5 * sec)
		l.take(&l.checks)
		members := l.g.Members()
		l.set(errTarget, 0)
		l.set(errHang, 1)
		l.c.CheckNow(members[0])
		l.wait(30 * sec)
		l.expect("held", &l.checks, "5 0 a, 5 1 a")
		if err := l.g.SetMembers(members[:1]); err != nil {
			t.Fatal(err)
		}
		l.wait(15 * sec)
		l.expect("alone, its failures are its own", &l.checks, "45 0 a, 46 0 a, 47 0 a")
		if l.status(0).Active != Down {
			t.Errorf("is %s", l.status(0).Active)
		}
	})
}

// TestHeldThatLeaves: nobody is asked any more about a member that is gone.
func TestHeldThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(5 * sec)
		members := l.g.Members()
		l.set(errTarget, 0)
		l.set(errHang, 1, 2)
		l.c.CheckNow(members[0])
		l.wait(sec)
		if err := l.g.SetMembers(members[1:]); err != nil {
			t.Fatal(err)
		}
		l.set(nil, 1, 2)
		l.wait(2500 * time.Millisecond) // until the witness has timed out, and been told on
		l.take(&l.checks)
		l.wait(30 * sec)
		if n := len(strings.Split(l.take(&l.checks), ",")); n > 8 {
			t.Errorf("%d checks of 2 members in 30 s", n)
		}
		if s := members[0].Upstream.Status(); s.Active != Up || s.CheckFailed {
			t.Errorf("the one that left: %+v", s)
		}
	})
}

// TestCheckedThatLeaves: the check under way of a member that goes counts as
// nothing, and no other follows.
func TestCheckedThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, nil)
		defer func() { l.c.Stop() }()
		l.set(errHang, 0)
		l.restart()
		l.wait(sec)
		members := l.g.Members()
		if err := l.g.SetMembers(members[1:]); err != nil {
			t.Fatal(err)
		}
		l.wait(60 * sec)
		if s := members[0].Upstream.Status(); s != (Status{}) {
			t.Errorf("%+v", s)
		}
		got := l.take(&l.checks)
		if n := strings.Count(got+",", "0 0,"); n != 1 {
			t.Errorf("%d checks of the one that left: %q", n, got)
		}
	})
}

func TestStopCountsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 50, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		l.setHang(true)
		l.restart()
		time.Sleep(sec)
		before := time.Now()
		l.c.Stop()
		if time.Since(before) != 0 {
			t.Errorf("Stop took %s", time.Since(before))
		}
		if len(l.results) != 0 || l.running != 0 {
			t.Errorf("%d results, %d running", len(l.results), l.running)
		}
		for i := range 50 {
			if s := l.status(i); s != (Status{}) {
				t.Errorf("%d: %+v", i, s)
			}
		}
	})
}

// TestReloads: 200 in a row neither check more often nor forget a count.
func TestReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, nil)
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(5 * sec)
		l.take(&l.checks)
		for range 200 {
			l.c.Stop()
			l.restart()
			l.wait(100 * time.Millisecond)
		}
		if n := len(strings.Split(l.take(&l.checks), ",")); n != 6 {
			t.Errorf("%d checks of 3 members in 20 s", n)
		}
		// The same when every check is cut off by the next reload.
		l.setHang(true)
		for range 200 {
			l.c.Stop()
			l.restart()
			l.wait(100 * time.Millisecond)
		}
		if n := len(strings.Split(l.take(&l.checks), ",")); n > 3*7 {
			t.Errorf("%d checks of 3 members in 20 s, cut off", n)
		}
		l.setHang(false)
		l.wait(20 * sec)
		l.take(&l.edges)
		l.set(errTarget, 0)
		for run := 0; run < 2; {
			l.wait(100 * time.Millisecond)
			u := l.g.Members()[0].Upstream
			u.mu.Lock()
			run = u.checks.activity.run
			u.mu.Unlock()
		}
		l.c.Stop()
		l.restart()
		l.wait(1100 * time.Millisecond)
		if got := l.take(&l.edges); !strings.HasSuffix(got, "0 unhealthy") {
			t.Errorf("the count began anew: %q", got)
		}
	})
}

// TestTwoCheckers: an upstream that belongs to two groups is checked once.
func TestTwoCheckers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		defer func() { l.c.Stop() }()
		other := NewGroup(GroupConfig{UpstreamConfig: exactConfig()})
		if err := other.SetMembers(l.g.Members()); err != nil {
			t.Fatal(err)
		}
		l.restart()
		synctest.Wait()
		c, err := startChecker(other, l.cfg, func() float64 { return 0.5 })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Stop()
		if _, err := StartChecker(other, l.cfg); err == nil {
			t.Error("a group with two checkers")
		}
		for range 550 {
			other.Available(time.Now())
			l.wait(100 * time.Millisecond)
		}
		l.expect("checks", &l.checks, "0 0, 10 0, 20 0, 30 0, 40 0, 50 0")
	})
}

func TestMembersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, nil)
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(5 * sec)
		l.take(&l.checks)
		members := l.g.Members()
		fresh := &Member{Upstream: new(Upstream), Value: 7}
		if err := l.g.SetMembers([]*Member{members[1], fresh}); err != nil {
			t.Fatal(err)
		}
		l.expect("the new one at once", &l.checks, "5 7")
		l.wait(6 * sec)
		l.expect("the old one in its time", &l.checks, "10 1")
		l.c.CheckNow(members[0])
		l.expect("one that is gone", &l.checks, "")
	})
}

func TestCheckNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, nil)
		defer func() { l.c.Stop() }()
		l.restart()
		l.wait(5 * sec)
		l.take(&l.checks)
		l.c.CheckNow(l.g.Members()[1])
		l.wait(4 * sec)
		l.expect("at once", &l.checks, "5 1")
		l.setHang(true)
		l.c.CheckNow(l.g.Members()[0]) // at 9 s; runs until 12
		synctest.Wait()
		for range 10 {
			l.c.CheckNow(l.g.Members()[0])
		}
		l.setHang(false)
		l.wait(4 * sec)
		l.expect("one more after the one under way", &l.checks, "9 0, 12 0")
	})
}

func TestMaintenanceEndsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, nil)
		defer func() { l.c.Stop() }()
		l.g.Members()[0].Upstream.SetAdmin(Maint)
		l.g.Members()[1].Upstream.SetAdmin(Drain)
		l.restart()
		l.wait(15 * sec)
		l.expect("only the drained one", &l.checks, "0 1, 10 1")
		l.g.Members()[0].Upstream.SetAdmin(Ready)
		l.wait(10 * sec)
		if got := l.take(&l.checks); got != "20 0, 20 1" && got != "20 1, 20 0" {
			t.Errorf("both again: %q", got)
		}
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1000, nil)
		l.setHang(true)
		l.restart()
		l.wait(100 * sec)
		l.c.Stop()
		if l.most != 32 {
			t.Errorf("%d checks at once", l.most)
		}
		seen := make(map[string]bool)
		for _, c := range l.checks {
			seen[strings.Fields(c)[1]] = true
		}
		if len(seen) != 1000 { // 32 each 3 s: all within 94 s
			t.Errorf("%d of 1000 members were checked", len(seen))
		}
	})
}

func TestUnauthorizedCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Targets = []string{"a"}; c.ProvesAuth = true })
		defer func() { l.c.Stop() }()
		l.set(fmt.Errorf("407: %w", ErrUnauthorized), 0)
		l.restart()
		l.wait(2 * time.Minute)
		l.expect("edges", &l.edges, "0 1 , 26 0 auth_failed")
		if s := l.status(0); s.Active != Unknown || s.InRotation() {
			t.Errorf("%+v", s)
		}
		if checks := strings.Count(l.take(&l.checks), " 0 a"); checks != 5 { // 0, 10, 26, 51.6, 92.56
			t.Errorf("%d checks", checks)
		}
		l.set(nil, 0)
		l.wait(time.Minute)
		l.expect("edges", &l.edges, "2m32.56 0 , 2m32.56 0 circuit_closed")
	})
}

func TestCheckerConfigValidate(t *testing.T) {
	check := func(context.Context, *Member, string) error { return nil }
	for _, tc := range []struct {
		change func(*CheckerConfig)
		want   string
	}{
		{func(*CheckerConfig) {}, ""},
		{func(c *CheckerConfig) { c.Interval = 0 }, "health_interval: 0s is not positive"},
		{func(c *CheckerConfig) { c.FastInterval = -1 }, "fast interval of health checks: -1ns is not positive"},
		{func(c *CheckerConfig) { c.MaxInterval = 0 }, "longest interval of health checks: 0s is not positive"},
		{func(c *CheckerConfig) { c.IdleInterval = 0 }, "idle interval of health checks: 0s is not positive"},
		{func(c *CheckerConfig) { c.Timeout = 0 }, "health_timeout: 0s is not positive"},
		{func(c *CheckerConfig) { c.Rise = 0 }, "health_passes: 0 is too low: at least 1"},
		{func(c *CheckerConfig) { c.Fall = 0 }, "health_fails: 0 is too low: at least 1"},
		{func(c *CheckerConfig) { c.Concurrency = 0 }, "concurrency of health checks: 0 is too low: at least 1"},
		{func(c *CheckerConfig) { c.Jitter = 1 }, "jitter of health checks: 1 is not between 0 and 1"},
		{func(c *CheckerConfig) { c.Check = nil }, "no function to check with"},
	} {
		cfg := DefaultCheckerConfig()
		cfg.Check = check
		tc.change(&cfg)
		c, err := StartChecker(newGroup(t, 0, exactConfig()), cfg)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			c.Stop()
		}
		if got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
