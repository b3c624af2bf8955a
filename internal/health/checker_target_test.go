package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTargetDown: when every member fails the same target, they are not to blame,
// however long it takes and whoever notices first.
func TestTargetDown(t *testing.T) {
	for n := 2; n <= 5; n++ {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, n, func(c *CheckerConfig) { c.Targets = []string{"a"} })
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

// TestImpossible: what a check needs takes nothing of its time, and where it cannot be had,
// nobody is charged, nor brought back.
func TestImpossible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errNoAddress := errors.New("no address")
		var failing atomic.Bool
		l := newLab(t, 2, func(c *CheckerConfig) {
			c.Targets = []string{"a", "b"}
			c.CheckSelf = func(context.Context, *Member) error { return nil }
			c.Prepare = func(ctx context.Context, m *Member, target string) (context.Context, error) {
				time.Sleep(2 * c.Timeout)
				if failing.Load() && m.Value == 0 && target == "a" {
					return ctx, errNoAddress
				}
				return ctx, ctx.Err()
			}
		})
		l.restart()
		l.wait(2 * time.Minute)
		l.take(&l.edges)
		if r := l.outcomes(); len(r) < 4 || slices.ContainsFunc(r, func(o CheckOutcome) bool { return o != Passed }) {
			t.Errorf("slow: %v", r)
		}

		failing.Store(true)
		l.setTarget("b", errTarget) // which says nothing where the other one might have passed
		l.wait(2 * time.Minute)
		l.expect("impossible", &l.edges, "")
		if r := l.outcomes(); !slices.Contains(r, Inconclusive) || slices.Contains(r, Failed) {
			t.Errorf("impossible: %v", r)
		}

		failing.Store(false)
		l.setTarget("b", nil)
		l.set(fmt.Errorf("%w: refused", ErrUnreachable), 0)
		l.wait(2 * time.Minute)
		if got := l.take(&l.edges); !strings.HasSuffix(got, " 0 unhealthy") {
			t.Errorf("edges: %q", got)
		}
		l.outcomes()
		failing.Store(true)
		l.set(errTarget, 0)
		l.setTarget("b", errTarget)
		l.wait(5 * time.Minute)
		if l.status(0).Active != Down {
			t.Error("back, with nothing asked")
		}
	})
}

// TestAllUnreachable: that is not the target's fault.
func TestAllUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"a"} })
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
		l.expect("alone, a target says nothing", &l.checks, "45 0 a")
		if l.status(0).Active != Up {
			t.Errorf("is %s", l.status(0).Active)
		}
	})
}

// TestLastOne: a target alone never takes the last member in rotation out, whatever took
// the others out, and it is told once. The upstream itself decides.
func TestLastOne(t *testing.T) {
	for name, others := range map[string]func(l *lab){
		"the only one": nil,
		"the others are drained": func(l *lab) {
			l.g.Members()[1].Upstream.SetAdmin(Drain)
			l.g.Members()[2].Upstream.SetAdmin(Maint)
		},
		"the others cannot be reached": func(l *lab) {
			l.set(fmt.Errorf("%w: refused", ErrUnreachable), 1, 2)
		},
		"the others have failed requests": func(l *lab) {
			for i := 1; i < 3; i++ {
				for range 3 {
					l.g.Observe(time.Now(), l.g.Members()[i], Observation{Kind: AuthFault})
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told, self := 0, error(nil)
				n := 3
				if others == nil {
					n = 1
				}
				var l *lab
				setSelf := func(err error) {
					l.mu.Lock()
					defer l.mu.Unlock()
					self = err
				}
				l = newLab(t, n, func(c *CheckerConfig) {
					c.Targets = []string{"a", "b"}
					c.OnSpared = func(m *Member, err error) {
						l.mu.Lock()
						defer l.mu.Unlock()
						told++
						if m.Value != 0 || err == nil {
							t.Errorf("told of %v: %v", m.Value, err)
						}
					}
					c.CheckSelf = func(context.Context, *Member) error {
						l.mu.Lock()
						defer l.mu.Unlock()
						return self
					}
				})
				l.restart()
				l.wait(12 * sec)
				if others != nil {
					others(l)
					l.wait(5 * time.Minute)
				}
				l.set(errTarget, 0)
				l.wait(5 * time.Minute)
				if st := l.status(0); st.Active != Up || !st.InRotation() {
					t.Errorf("%+v", st)
				}
				l.mu.Lock()
				if told != 1 {
					t.Errorf("told %d times", told)
				}
				l.mu.Unlock()
				setSelf(errors.New("refused"))
				l.wait(2 * time.Minute)
				if st := l.status(0); st.Active != Down {
					t.Errorf("cannot be reached: %+v", st)
				}
				// The target is still down, but that is no reason to stay out.
				setSelf(nil)
				l.wait(5 * time.Minute)
				if st := l.status(0); st.Active != Up {
					t.Errorf("can be reached again: %+v", st)
				}
			})
		})
	}
}

// TestBackWithTargetDown: upstreams that could not be reached come back when they can,
// also where the target has gone in the meantime.
func TestBackWithTargetDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		l.set(fmt.Errorf("%w: refused", ErrUnreachable), 0, 1, 2)
		l.restart()
		l.wait(sec)
		l.set(errTarget, 0, 1, 2)
		l.wait(5 * time.Minute)
		for i := range 3 {
			if st := l.status(i); st.Active != Up {
				t.Errorf("%d: %+v", i, st)
			}
		}
	})
}

// TestBackAsTheLastOne: one that was taken out for a target comes back when nobody else
// is left, also where the target has gone in the meantime; and the operator is told.
func TestBackAsTheLastOne(t *testing.T) {
	unreachable := fmt.Errorf("%w: refused", ErrUnreachable)
	for name, breaks := range map[string]func(l *lab){
		"the other cannot be reached": func(l *lab) { l.set(unreachable, 1) },
		"the other fails requests": func(l *lab) {
			for range 5 {
				l.g.Observe(time.Now(), l.g.Members()[1], Observation{Kind: Failure})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				told := make(map[any]int)
				var self atomic.Bool
				l := newLab(t, 2, func(c *CheckerConfig) {
					c.Targets = []string{"a"}
					c.OnSpared = func(m *Member, _ error) { told[m.Value]++ }
					c.CheckSelf = func(context.Context, *Member) error {
						if !self.Load() {
							return errTarget
						}
						return nil
					}
				})
				l.restart()
				l.wait(12 * sec)
				l.set(errTarget, 0)
				l.wait(30 * sec)
				if st := l.status(0); st.Active != Down {
					t.Fatalf("%+v", st)
				}
				self.Store(true)
				l.set(errTarget, 0, 1)
				l.wait(30 * sec)
				if st := l.status(0); st.Active != Down {
					t.Errorf("while another one is in rotation: %+v", st)
				}
				breaks(l)
				l.wait(75 * sec)
				if st := l.status(0); st.Active != Up {
					t.Errorf("nobody else is left: %+v", st)
				}
				l.wait(30 * sec)
				if told[0] != 1 {
					t.Errorf("told %v", told)
				}
			})
		})
	}
}
