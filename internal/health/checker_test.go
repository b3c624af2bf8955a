package health

import (
	"context"
	"errors"
	"fmt"
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

// newLab returns a lab of n members, whose checks begin with restart, without jitter,
// and end with the test.
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
	t.Cleanup(func() {
		if l.c != nil {
			l.c.Stop()
		}
	})
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
		l.setHang(true)
		l.restart()
		l.wait(7 * sec)
		l.expect("each target has its time", &l.checks, "0 0 a, 3 0 b")
		if r := l.outcomes(); len(r) != 1 || r[0] != Inconclusive { // there is nobody to compare with
			t.Errorf("%v", r)
		}
	})
}

func TestCheckerTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, func(c *CheckerConfig) { c.Targets = []string{"a", "b"} })
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
