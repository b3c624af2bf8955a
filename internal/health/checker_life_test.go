package health

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeldThatLeaves: nobody is asked any more about a member that is gone.
func TestHeldThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"a"} })
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

// Who has asked for a check is told when there will be none: of one that is gone, or goes while
// it is checked, that is not to be checked, or that others check in another way.
func TestCheckNow_Unchecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 4, nil)
		told := make(chan *Member, 4)
		l.cfg.OnUnchecked = func(_ *Checker, m *Member) { told <- m }
		l.restart()
		l.wait(5 * sec)
		members := l.g.Members()
		expect := func(what string, m *Member) {
			t.Helper()
			synctest.Wait()
			select {
			case got := <-told:
				if got.Upstream != m.Upstream {
					t.Errorf("%s: told of another one", what)
				}
			default:
				t.Errorf("%s: not told", what)
			}
		}
		members[0].Upstream.SetAdmin(Maint)
		l.c.CheckNow(members[0])
		expect("maintenance", members[0])

		cfg := l.cfg
		cfg.Identity = "another"
		cfg.OnUnchecked = nil
		g := NewGroup(l.g.cfg)
		if err := g.SetMembers([]*Member{members[1]}); err != nil {
			t.Fatal(err)
		}
		other, err := StartChecker(g, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Stop()
		l.c.CheckNow(members[1])
		expect("checked in another way", members[1])
		if members[1].Upstream.Checker(l.c) != other || members[2].Upstream.Checker(nil) != l.c || members[2].Upstream.Checker(l.c) != l.c {
			t.Error("whose checks count is not known")
		}

		l.setHang(true)
		l.c.CheckNow(members[3])
		synctest.Wait()
		if err := l.g.SetMembers(members[:3]); err != nil {
			t.Fatal(err)
		}
		expect("it goes", members[3])
		l.c.CheckNow(members[3])
		expect("it is gone", members[3])
		l.setHang(false)
	})
}

func TestMaintenanceEndsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, nil)
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

// Requests ask for checks from anywhere, while the scheduler wakes up for nothing as
// well. (For the race detector.)
func TestCheckNow_FromEverywhere(t *testing.T) {
	cfg := DefaultCheckerConfig()
	cfg.Check = func(context.Context, *Member, string) error { return nil }
	g := newGroup(t, 2, exactConfig())
	c, err := StartChecker(g, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				c.poke()
				c.CheckNow(g.Members()[i%2])
			}
		})
	}
	wg.Wait()
}

// TestIdleGroupBesideOneInUse: an upstream of two groups is checked as often as the
// one that is used wants, though nobody uses the other.
func TestIdleGroupBesideOneInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		idle := NewGroup(l.g.cfg)
		if err := idle.SetMembers([]*Member{{Upstream: l.g.Members()[0].Upstream, Value: 0}}); err != nil {
			t.Fatal(err)
		}
		// The idle one is first: it plans its next check a minute later.
		first, err := startChecker(idle, l.cfg, func() float64 { return 0.5 })
		if err != nil {
			t.Fatal(err)
		}
		defer first.Stop()
		time.Sleep(15 * sec)
		l.restart()
		l.wait(2 * sec)
		l.take(&l.checks)
		l.wait(60 * sec)
		got := l.take(&l.checks)
		if n := len(strings.Split(got, ",")); n < 5 || n > 9 {
			t.Errorf("%d checks in a minute, want one every 10 s or so: %s", n, got)
		}
	})
}

// A member whose settings change, as those of a list do, is checked all the while, by
// what was its Member when the check began; soon by what is now.
func TestMembersChangeWhileChecked(t *testing.T) {
	g := newGroup(t, 4, exactConfig())
	cfg := DefaultCheckerConfig()
	cfg.Interval, cfg.FastInterval = time.Millisecond, time.Millisecond
	cfg.IdleInterval, cfg.MaxInterval = time.Millisecond, time.Millisecond
	const changes = 1000
	last := make(chan struct{}, 1)
	cfg.Check = func(_ context.Context, m *Member, _ string) error {
		if m.Value.(int) == changes-1 {
			select {
			case last <- struct{}{}:
			default:
			}
		}
		return nil
	}
	c, err := StartChecker(g, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	for i := range changes {
		var members []*Member
		for _, m := range g.Members() {
			members = append(members, &Member{Upstream: m.Upstream, Value: i})
		}
		if err := g.SetMembers(members); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-last:
	case <-time.After(20 * time.Second):
		t.Error("the last of the members are not checked")
	}
}
