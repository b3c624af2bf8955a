package health

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// reload begins with another Checker in a group of its own, as a reload does, and then ends
// the one before.
func (l *lab) reload(change func(*CheckerConfig)) {
	l.t.Helper()
	old, before := l.c, l.g
	if change != nil {
		change(&l.cfg)
	}
	l.g = NewGroup(before.cfg)
	if err := l.g.SetMembers(before.Members()); err != nil {
		l.t.Fatal(err)
	}
	l.restart()
	old.Stop()
	before.Close()
}

// TestReload_AnotherCheck: what another check has found does not count. The first result of
// the new one, which is due at once, decides.
func TestReload_AnotherCheck(t *testing.T) {
	corrected := func(c *CheckerConfig) { c.Identity, c.Targets = "right", []string{"right"} }
	for name, tc := range map[string]struct {
		member int // that fails it
		err    error
		want   string
	}{
		"corrected": {0, nil, "0 healthy"},
		"fails too": {0, errTarget, ""},
		"broken":    {1, errTarget, "0 healthy, 1 unhealthy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 3, func(c *CheckerConfig) { c.Identity, c.Targets = "wrong", []string{"wrong"} })
				l.set(errTarget, 0)
				l.restart()
				l.wait(2 * time.Minute)
				if s := l.status(0); s.Active != Down {
					t.Fatalf("%+v", s)
				}
				l.take(&l.edges)
				l.set(nil, 0)
				l.set(tc.err, tc.member)
				l.reload(corrected)
				l.wait(50 * ms)
				got := l.take(&l.edges)
				for _, want := range strings.Split(tc.want, ", ") {
					if !strings.Contains(got, want) {
						t.Errorf("edges %q, want %q", got, want)
					}
				}
				if tc.want == "" && got != "" {
					t.Errorf("edges %q", got)
				}
			})
		})
	}
}

// TestReload_AnotherCheckThatSaysNothing: where no result of the new check counts, what
// another one has found does not count either.
func TestReload_AnotherCheckThatSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Identity, c.Targets = "wrong", []string{"wrong"} })
		l.set(errTarget, 0)
		l.restart()
		l.wait(time.Minute)
		l.set(errTarget, 0, 1, 2)
		l.reload(func(c *CheckerConfig) { c.Identity = "right" })
		l.wait(50 * ms)
		if s := l.status(0); !s.InRotation() || s.CheckFailed {
			t.Errorf("%+v", s)
		}
	})
}

// TestReload_LateResultOfAnotherCheck: a check that was under way counts as nothing where
// the new one is another.
func TestReload_LateResultOfAnotherCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Identity = "wrong" })
		l.set(fmt.Errorf("%w: no", ErrUnauthorized), 0)
		l.restart()
		l.wait(25 * sec)
		l.set(errHang, 0, 1)
		l.wait(2 * sec)
		l.set(nil, 0, 1)
		l.reload(func(c *CheckerConfig) { c.Identity = "right" })
		l.wait(5 * sec)
		if s := l.status(1); s.Active != Up || s.CheckFailed {
			t.Errorf("%+v", s)
		}
	})
}

// TestReload_Interval: a shorter interval holds from now on, and results stay.
func TestReload_Interval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Interval, c.IdleInterval = 10*time.Minute, 10*time.Minute })
		l.set(errHang, 0)
		l.restart()
		l.wait(time.Minute)
		l.take(&l.checks)
		l.take(&l.edges)
		l.reload(func(c *CheckerConfig) { c.Interval = sec })
		l.expect("no result was lost", &l.edges, "")
		l.wait(2 * sec)
		if got := l.take(&l.checks); !strings.Contains(got, " 0") || !strings.Contains(got, " 1") {
			t.Errorf("checks %q", got)
		}
	})
}

// TestReload_ChecksGoOn: however often the configuration is reloaded, a check that takes its
// time comes to its end, and counts once.
func TestReload_ChecksGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Identity, c.Interval, c.IdleInterval = "a", sec, sec })
		l.restart()
		l.wait(5 * sec)
		l.take(&l.edges)
		l.set(errHang, 0)
		l.wait(sec)
		l.outcomes()
		l.take(&l.checks)
		failed := 0
		for range 40 { // 20 s
			l.wait(500 * ms)
			l.reload(nil)
			for _, o := range l.outcomes() {
				if o == Failed {
					failed++
				}
			}
		}
		if s := l.status(0); s.Active != Down {
			t.Errorf("%+v", s)
		}
		if n := strings.Count(l.take(&l.checks)+",", " 0,"); failed < 3 || failed > n+1 {
			t.Errorf("%d failures of %d checks", failed, n)
		}
	})
}

// TestReload_LeftToOneToCome: a check is left also to a Checker that begins only when the
// one before has stopped, and ends where that does not come.
func TestReload_LeftToOneToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Heir = func(*Member) bool { return true } })
		l.set(errHang, 0)
		l.restart()
		l.wait(2 * sec)
		for range 3 {
			l.c.Stop()
			l.wait(500 * ms)
			l.restart()
		}
		l.wait(sec)
		if s := l.status(0); s.Active != Down {
			t.Errorf("%+v", s)
		}
		l.setHang(true)
		l.c.CheckNow(l.g.Members()[1])
		l.wait(sec)
		l.c.Stop()
		for _, m := range l.g.Members() {
			m.Upstream.ForgetChecks()
		}
		synctest.Wait()
		if l.running != 0 {
			t.Errorf("%d checks go on", l.running)
		}
	})
}

// TestReload_ChecksEnd: a check that goes on ends with the last Checker.
func TestReload_ChecksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Timeout = time.Hour })
		l.setHang(true)
		l.restart()
		l.wait(sec)
		l.reload(nil)
		l.wait(sec)
		if l.running != 3 {
			t.Errorf("%d checks go on", l.running)
		}
		l.c.Stop()
		synctest.Wait()
		if l.running != 0 {
			t.Errorf("%d checks go on without a Checker", l.running)
		}
		for i := range 3 {
			if s := l.status(i); s != (Status{}) {
				t.Errorf("%d: %+v", i, s)
			}
		}
	})
}

// TestReload_CheckNow: a check that is asked for is made behind the one that goes on.
func TestReload_CheckNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		l.set(errHang, 0)
		l.restart()
		l.wait(sec)
		l.reload(nil)
		l.set(nil, 0)
		l.wait(sec)
		l.c.CheckNow(l.g.Members()[0])
		l.wait(3 * sec)
		l.expect("checks", &l.checks, "0 0, 2 0")
		if s := l.status(0); s.Active != Up {
			t.Errorf("an earlier failure counts behind a later pass: %+v", s)
		}
	})
}

// TestTwoChecks: of two checks of an upstream in two groups, the one that began last is
// made, and the other one when that is over.
func TestTwoChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, func(c *CheckerConfig) { c.Identity, c.Targets, c.IdleInterval = "a", []string{"a"}, 10*sec })
		l.restart()
		l.wait(5 * sec)
		other := NewGroup(l.g.cfg)
		if err := other.SetMembers(l.g.Members()); err != nil {
			t.Fatal(err)
		}
		cfg := l.cfg
		cfg.Identity, cfg.Targets = "b", []string{"b"}
		c, err := startChecker(other, cfg, func() float64 { return 0.5 })
		if err != nil {
			t.Fatal(err)
		}
		l.wait(19 * sec)
		l.expect("checks", &l.checks, "0 0 a, 5 0 b, 15 0 b")
		c.Stop()
		l.wait(15 * sec)
		if got := l.take(&l.checks); strings.Contains(got, "b") || !strings.Contains(got, "a") {
			t.Errorf("checks %q", got)
		}
	})
}
