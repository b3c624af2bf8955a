package destination

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
)

// exchangeTime is how long an exchange has the turn of the probe.
const exchangeTime = time.Second

// waitOf is how long a request is to wait that was refused.
func waitOf(err error) time.Duration {
	e, ok := errors.AsType[*OpenError](err)
	if !ok {
		return 0
	}
	return max(e.RetryAfter, time.Second)
}

// testConfig are the defaults of the configuration.
var testConfig = health.CircuitConfig{Failures: 5, Window: 30 * time.Second, OpenFor: 2 * time.Second, MaxOpenFor: 30 * time.Second}

// circuitTest is a set of destinations with the default settings.
type circuitTest struct {
	*testing.T
	*Path
	logs *observer.ObservedLogs
}

func newCircuitTest(t *testing.T) *circuitTest {
	core, logs := observer.New(zap.DebugLevel)
	return &circuitTest{t, &Path{New(testConfig, false), "", zap.New(core)}, logs}
}

// origin is a destination that a test speaks of by number.
func origin(n int) target.Target {
	return target.Target{Host: fmt.Sprintf("origin%d.test", n), Port: 80}
}

var errRefused = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}

// ask asks for a destination that must be let through.
func (c *circuitTest) ask(dest target.Target) Charge {
	c.Helper()
	report, err := c.Allow(dest, false, 0, health.ProbeLimit)
	if err != nil {
		c.Fatalf("refused: %v", err)
	}
	return report
}

// end asks for a destination that must be let through, and tells how it went.
func (c *circuitTest) end(dest target.Target, err error) {
	c.Helper()
	r := c.ask(dest)
	r.Tell(err)
}

// refused asks for a destination that must be refused, and returns for how
// long.
func (c *circuitTest) refused(dest target.Target) time.Duration {
	c.Helper()
	_, err := c.Allow(dest, false, 0, health.ProbeLimit)
	if err == nil {
		c.Fatal("let through")
	}
	if f := failure.Of(err); f != failure.Circuit && f != failure.NoNameCircuit || f.Status != 503 {
		c.Errorf("refused as %d %s", f.Status, f.Type)
	}
	after := waitOf(err)
	if after < time.Second {
		c.Errorf("may be tried again after %s", after)
	}
	return after
}

// fail lets n requests fail.
func (c *circuitTest) fail(dest target.Target, n int) {
	c.Helper()
	for range n {
		c.end(dest, errRefused)
	}
}

func (c *circuitTest) tracked(want int) {
	c.Helper()
	entries := 0
	c.states.Range(func(any, any) bool {
		entries++
		return true
	})
	if n := c.count.Load(); int(n) != entries || entries != want {
		c.Errorf("%d destinations in the map, counted as %d, want %d", entries, n, want)
	}
}

func TestCircuitOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		c.fail(dest, 4)
		c.ask(dest) // four are not enough
		c.fail(dest, 1)
		if after := c.refused(dest); after != 2*time.Second {
			t.Errorf("open for %s", after)
		}
		c.end(origin(2), nil) // others are not concerned
		time.Sleep(900 * time.Millisecond)
		if after := c.refused(dest); after != 1100*time.Millisecond {
			t.Errorf("open for another %s", after)
		}
		time.Sleep(1100 * time.Millisecond)

		probe := c.ask(dest)
		for range 50 {
			c.refused(dest)
		}
		probe.Tell(nil)
		for range 50 {
			c.end(dest, nil)
		}
		c.tracked(0)
		messages := make([]string, 0, 2)
		for _, e := range c.logs.All() {
			messages = append(messages, e.Message)
			if e.Level != zap.InfoLevel || e.ContextMap()["destination"] != "origin1.test:80" {
				t.Errorf("%s %s %v", e.Level, e.Message, e.ContextMap())
			}
		}
		if len(messages) != 2 || messages[0] != "destination fails repeatedly: circuit opened" || messages[1] != "destination is reachable again: circuit closed" {
			t.Errorf("logged %q", messages)
		}
	})
}

// Each pause after a probe that failed is 1.6 times as long, up to 30 seconds.
func TestCircuitPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		c.fail(dest, 5)
		for _, want := range []int64{2000, 3200, 5120, 8192, 13107, 20971, 30000, 30000} {
			after := c.refused(dest)
			if after.Milliseconds() != want {
				t.Errorf("open for %s, want %d ms", after, want)
			}
			time.Sleep(after)
			c.end(dest, errRefused)
		}
		if n := c.logs.Len(); n != 1 {
			t.Errorf("%d lines in the log, want one for the change of state", n)
		}
		time.Sleep(c.refused(dest))
		c.end(dest, nil)
		c.fail(dest, 5)
		if after := c.refused(dest); after != 2*time.Second {
			t.Errorf("open for %s after it had recovered", after)
		}
	})
}

// A probe that ends without a result opens the circuit again, without growth: for at least
// as long as it has waited; where its client left, for no longer than that, and where
// nothing was asked of the destination, not at all. So no client keeps a destination from
// the others.
func TestCircuitUnsettledProbe(t *testing.T) {
	for _, err := range notCharged {
		pause := func(waited time.Duration) time.Duration { return max(waited, 2*time.Second) }
		switch f := failure.Of(err); {
		case f == failure.Canceled:
			pause = func(waited time.Duration) time.Duration { return waited }
		case f == failure.Limit, f == failure.Denied, f == failure.DeniedAddress, f == failure.Target:
			pause = func(time.Duration) time.Duration { return 0 }
		}
		t.Run(err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, dest := newCircuitTest(t), origin(1)
				c.fail(dest, 5)
				time.Sleep(2 * time.Second)
				for _, waited := range []time.Duration{0, time.Second, 7 * time.Second, time.Second} {
					probe := c.ask(dest)
					c.refused(dest)
					time.Sleep(waited)
					probe.Tell(err)
					if want := pause(waited); want > 0 {
						if after := c.refused(dest); after != want {
							t.Errorf("open for %s after a probe that has waited %s", after, waited)
						}
						time.Sleep(want)
					}
				}
				c.end(dest, nil)
				c.tracked(0)
			})
		})
	}
}

// An exchange whose head is long in coming is no longer the only probe after a second.
func TestCircuitSlowProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		for _, slow := range []error{nil, errRefused} {
			c.fail(dest, 5)
			time.Sleep(2 * time.Second)
			var first Charge
			for n := range 3 {
				r, err := c.Allow(dest, false, 0, exchangeTime)
				if err != nil {
					t.Fatalf("%d: %v", n, err)
				}
				if n == 0 {
					first = r
				}
				c.refused(dest)
				time.Sleep(exchangeTime)
			}
			first.Tell(slow) // it still counts
			if slow != nil {
				if after := c.refused(dest); after != 3200*time.Millisecond {
					t.Errorf("open for %s after the failure of the first probe", after)
				}
				time.Sleep(3200 * time.Millisecond)
				c.end(dest, nil)
			}
			c.tracked(0)
		}
	})
}

// The turn of a probe that nobody tells of does not last for ever.
func TestCircuitLostProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		c.fail(dest, 5)
		time.Sleep(2 * time.Second)
		lost := c.ask(dest)
		time.Sleep(health.ProbeLimit)
		probe := c.ask(dest)
		lost.Tell(context.Canceled) // of a turn that is over
		c.refused(dest)
		probe.Tell(nil)
		c.tracked(0)
	})
}

// The turn is of the circuit that gave it, and not of one that has taken its place.
func TestCircuitForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		c.fail(dest, 5)
		time.Sleep(2 * time.Second)
		lost := []Charge{c.ask(dest)}
		time.Sleep(health.ProbeLimit)
		lost = append(lost, c.ask(dest))
		c.forget(c.key(&lost[0]), c.lookup(c.key(&lost[0])))
		c.fail(dest, 5)
		time.Sleep(2 * time.Second)
		probe := c.ask(dest)
		lost[0].Tell(errRefused)
		lost[1].Tell(context.Canceled)
		if after := c.refused(dest); after != time.Second {
			t.Errorf("open for %s: the probe of another circuit counts", after)
		}
		probe.Tell(nil)
		c.tracked(0)
	})
}

// notCharged are results that a destination is not to blame for.
var notCharged = []error{
	context.Canceled,
	&net.OpError{Op: "dial", Err: context.Canceled},
	&failure.TLSError{Err: context.Canceled},
	acl.DenyPrivate,
	acl.ErrPortDenied,
	fmt.Errorf("%w: this server listens there", failure.Loop),
	&target.Error{Reason: "x"},
	&connpool.LimitError{Scope: connpool.ScopeConns},
	failure.Internal,
	failure.Auth,
	syscall.EMFILE,
	&net.OpError{Op: "dial", Err: syscall.EADDRNOTAVAIL},
	errors.New("something else"),
}

func TestCircuitIsNotCharged(t *testing.T) {
	for _, err := range notCharged {
		t.Run(err.Error(), func(t *testing.T) {
			c := newCircuitTest(t)
			for range 100 {
				c.end(origin(1), err)
			}
			c.tracked(0)
		})
	}
}

func TestCircuitIsCharged(t *testing.T) {
	for _, err := range []error{
		errRefused,
		&net.DNSError{Err: "no such host", IsNotFound: true},
		&net.DNSError{Err: "i/o timeout", IsTimeout: true},
		&net.OpError{Op: "dial", Err: context.DeadlineExceeded},
		&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH},
		&failure.TLSError{Err: errors.New("remote error: tls: handshake failure")},
		&failure.TLSError{Err: context.DeadlineExceeded},
		&net.OpError{Op: "read", Err: syscall.ECONNRESET},
	} {
		t.Run(err.Error(), func(t *testing.T) {
			c := newCircuitTest(t)
			for range 5 {
				c.end(origin(1), err)
			}
			c.refused(origin(1))
			want := failure.Circuit
			if failure.Of(err) == failure.NoName {
				want = failure.NoNameCircuit // it is the client's mistake, time and again
			}
			if _, err := c.Allow(origin(1), false, 0, health.ProbeLimit); failure.Of(err) != want {
				c.Errorf("refused as %v", failure.Of(err))
			}
		})
	}
}

// A success forgets the failures before it.
func TestCircuitCountsFailuresInARow(t *testing.T) {
	c, dest := newCircuitTest(t), origin(1)
	for range 10 {
		c.fail(dest, 4)
		c.end(dest, nil)
		c.tracked(0)
	}
}

// Failures that are further apart than the window do not add up.
func TestCircuitWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		for range 20 {
			c.fail(dest, 1)
			time.Sleep(8 * time.Second)
		}
		c.end(dest, nil)
	})
}

// The result of a request that began before the circuit opened.
func TestCircuitLateResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		late := []Charge{c.ask(dest), c.ask(dest), c.ask(dest)}
		c.fail(dest, 5)
		late[0].Tell(errRefused)
		late[1].Tell(context.Canceled)
		if after := c.refused(dest); after != 2*time.Second {
			t.Errorf("open for %s", after)
		}
		late[2].Tell(nil)
		c.ask(dest)
		c.tracked(0)
	})
}

func TestCircuitOff(t *testing.T) {
	d := &Path{New(health.CircuitConfig{}, true), "", zap.NewNop()}
	for range 20 {
		report, err := d.Allow(origin(1), false, 0, health.ProbeLimit)
		if err != nil {
			t.Fatal(err)
		}
		report.Tell(errRefused)
	}
	if n := d.count.Load(); n != 0 {
		t.Errorf("%d destinations tracked", n)
	}
}

// More failing destinations than are kept track of are served all the same.
func TestCircuitTracksSoMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuitTest(t)
		c.fail(origin(0), 5)
		for n := 1; n < maxDestinations+5_000; n++ {
			c.fail(origin(n), 1)
		}
		c.tracked(maxDestinations)
		c.refused(origin(0)) // what was tracked still is
		c.fail(origin(maxDestinations+1), 20)
		c.tracked(maxDestinations)

		// Nobody asks for them for a while: the next failure makes room.
		time.Sleep(forgetAfter + time.Second)
		probe := c.ask(origin(0)) // so this one is of interest
		c.fail(origin(maxDestinations+1), 5)
		c.refused(origin(maxDestinations + 1))
		c.refused(origin(0))
		probe.Tell(errRefused)
		c.tracked(2)
	})
}

// Those that nobody asks for are forgotten after a while, also where there is room:
// as long as there is one, each request has its name looked up.
func TestCircuitForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuitTest(t)
		for n := range 100 {
			c.fail(origin(n), 1)
		}
		time.Sleep(forgetAfter - time.Minute)
		c.fail(origin(100), 1)
		c.tracked(101)
		time.Sleep(time.Minute + time.Second)
		c.fail(origin(101), 1)
		c.tracked(2)
	})
}

// upstream.md §1: while 100,000 destinations fail, from many requests at once,
// the memory for them stays what it is for the first 10,000.
func TestCircuitMemoryIsBounded(t *testing.T) {
	c := newCircuitTest(t)
	heap := func(from, to int) uint64 {
		var next atomic.Int64
		next.Store(int64(from))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for n := next.Add(1) - 1; int(n) < to; n = next.Add(1) - 1 {
					report, err := c.Allow(origin(int(n)), false, 0, health.ProbeLimit)
					if err != nil {
						t.Error(err)
						return
					}
					report.Tell(errRefused)
				}
			})
		}
		wg.Wait()
		var ms runtime.MemStats
		runtime.GC()
		runtime.GC() // what sync.Pools of other tests hold goes with the second
		runtime.ReadMemStats(&ms)
		return ms.HeapAlloc
	}
	empty := heap(0, 0)
	first := heap(0, maxDestinations)
	c.tracked(maxDestinations)
	all := heap(maxDestinations, 10*maxDestinations)
	c.tracked(maxDestinations)
	if first < empty+maxDestinations*64 {
		t.Errorf("%d destinations took %d KiB: the test measures nothing", maxDestinations, (first-empty)>>10)
	}
	if all > first+256<<10 {
		t.Errorf("heap %d KiB after %d destinations, %d KiB after ten times as many", first>>10, maxDestinations, all>>10)
	}
}

// The sweep of a full table is run once a second at most.
func TestCircuitSweepsOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuitTest(t)
		for n := range maxDestinations + 1 {
			c.fail(origin(n), 1)
		}
		if c.swept.Load() != time.Now().Unix() {
			t.Fatal("a full table was not swept")
		}
		c.states.Range(func(_, v any) bool {
			v.(*state).last = time.Time{} // as if long ago
			return true
		})
		if c.sweep(time.Now()) {
			t.Error("swept again at once")
		}
		time.Sleep(time.Second)
		if !c.sweep(time.Now()) {
			t.Error("no room after a sweep")
		}
		c.tracked(0)
	})
}

// Whatever many requests do at once, nothing is left of it when the
// destinations work again.
func TestCircuitConcurrently(t *testing.T) {
	c := newCircuitTest(t)
	c.cfg.OpenFor, c.cfg.MaxOpenFor = time.Microsecond, time.Microsecond
	const origins, members = 4, 3
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 2_000 {
				n := (g + i) % origins
				dest := origin(n)
				report := c.About(dest, false)
				if i%5 == 0 {
					_, _ = report.Shut()
				}
				if report.Take(uint64(i%members), health.ProbeLimit) != nil {
					continue
				}
				if i%11 == 0 {
					report.End(errRefused, true)
					_ = report.Take(uint64((i+1)%members), exchangeTime)
				}
				switch i % 7 {
				case 0:
					report.Tell(nil)
				case 1:
					report.Tell(context.Canceled)
				default:
					report.Tell(errRefused)
				}
			}
		})
	}
	wg.Wait()
	for n := range origins * members {
		for {
			report := c.About(origin(n/members), false)
			if report.Take(uint64(n%members), health.ProbeLimit) == nil {
				report.Tell(nil)
				break
			}
		}
	}
	c.tracked(0)
}

// Of many requests that come while the circuit is half-open, one goes through.
func TestCircuitOneProbeOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		c.fail(dest, 5)
		for range 10 {
			_, err := c.Allow(dest, false, 0, health.ProbeLimit)
			time.Sleep(waitOf(err))
			var through atomic.Int32
			probe := make(chan Charge, 100)
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if r, err := c.Allow(dest, false, 0, health.ProbeLimit); err == nil {
						through.Add(1)
						probe <- r
					}
				})
			}
			wg.Wait()
			if n := through.Load(); n != 1 {
				t.Fatalf("%d requests went through", n)
			}
			last := <-probe
			last.Tell(errRefused)
		}
	})
}

func TestDestinationsHaveTheirOwnCircuit(t *testing.T) {
	c := newCircuitTest(t)
	dest := origin(1)
	c.fail(dest, 5)
	c.refused(dest)
	other := dest
	other.Port = 443
	c.ask(other)
}

// Through a group, each member has a circuit of its own.
func TestCircuitOfMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		through := func(err error, vias ...uint64) error {
			r := c.About(dest, false)
			for i, via := range vias {
				if err := r.Take(via, exchangeTime); err != nil {
					return err
				}
				if i < len(vias)-1 {
					r.End(errRefused, true)
				}
			}
			r.Tell(err)
			return nil
		}
		shut := func(want ...uint64) {
			t.Helper()
			r := c.About(dest, false)
			vias, err := r.Shut()
			if !slices.Equal(vias, want) || (err != nil) != (len(want) > 0) {
				t.Errorf("shut through %v, want %v: %v", vias, want, err)
			}
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		for range 4 {
			must(through(errRefused, 1))
			must(through(nil, 2)) // says nothing of the first
			shut()
		}
		must(through(errRefused, 1))
		shut(1)
		must(through(nil, 2))
		shut(1)
		must(through(errRefused, 2)) // one is enough now
		must(through(nil, 3))
		shut(1, 2)
		time.Sleep(2 * time.Second)
		shut()
		must(through(errRefused, 1)) // the probe
		must(through(nil, 2))        // and that of the other
		shut(1)
		time.Sleep(3200 * time.Millisecond)
		must(through(nil, 1))
		shut()
		c.tracked(0)

		// A request counts once, however many members it has tried.
		for range 4 {
			must(through(errRefused, 1, 2, 3))
			shut()
		}
		must(through(errRefused, 1, 2, 3))
		shut(1, 2, 3)
		time.Sleep(2 * time.Second)
		must(through(nil, 1, 2, 3)) // two probes that fail, and one that does not
		shut(1, 2)
		if err := through(nil, 1); err == nil {
			t.Error("let through")
		}

		// Of very many, the rest share one circuit.
		for via := range uint64(100) {
			_ = through(errRefused, 100+via)
		}
		r := c.About(dest, false)
		if vias, _ := r.Shut(); len(vias) != maxWays {
			t.Errorf("%d circuits", len(vias))
		}
		if err := through(nil, 150); err == nil {
			t.Error("let through")
		}
	})
}

// Of two attempts side by side, each is about its own member. Where both fail, it is one
// failure of one request; one that is overtaken may tell on its own.
func TestCircuitOfAttemptsBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		begin := func() (r, first, second Charge) {
			t.Helper()
			r = c.About(dest, false)
			if err := r.Take(1, health.ProbeLimit); err != nil {
				t.Fatal(err)
			}
			first, second = r.Split(), r.Beside(2)
			return r, first, second
		}
		states := func(want ...health.State) {
			t.Helper()
			var got []health.State
			for _, f := range c.Report() {
				got = append(got, f.Circuit)
			}
			if !slices.Equal(got, want) {
				t.Errorf("circuits %v, want %v", got, want)
			}
		}
		bothFail := func() {
			t.Helper()
			r, first, second := begin()
			second.End(errRefused, true)
			r.Join(&second)
			r.Join(&first)
			r.Tell(errRefused)
		}
		for range 4 {
			bothFail()
			states(health.Closed)
		}
		bothFail()
		states(health.Open, health.Open) // where one is open, one failure is enough for the other
		time.Sleep(2 * time.Second)

		// The probe is overtaken, and then fails.
		r, first, second := begin()
		r.Join(&second)
		r.Tell(nil)
		states(health.HalfOpen)
		first.Tell(errRefused)
		states(health.Open)
		time.Sleep(2 * time.Second)
		again := c.About(dest, false)
		if err := again.Take(1, health.ProbeLimit); err == nil {
			t.Error("the pause has not grown")
		}
		time.Sleep(1200 * time.Millisecond)

		// The probe fails, and the other one goes on.
		r, first, second = begin()
		first.End(errRefused, true)
		r.Join(&first)
		r.Join(&second)
		states(health.HalfOpen)
		r.Tell(nil)
		states(health.Open)
		time.Sleep(5120 * time.Millisecond)

		// The probe is overtaken, and succeeds.
		r, first, second = begin()
		r.Join(&second)
		r.Tell(nil)
		first.Tell(nil)
		states()
		c.tracked(0)
	})
}

// A look at the circuit of a destination says what a request would meet, and takes no
// turn from one.
func TestDestinations_Look(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuitTest(t)
		look := func(dest target.Target, state string, open bool) {
			t.Helper()
			got, err := c.Look(dest, false, 0)
			if got != state || (err != nil) != open {
				t.Errorf("%s: %v; want %s, open %t", got, err, state, open)
			}
		}
		dest := origin(1)
		look(dest, "closed", false)
		for range 5 {
			c.end(dest, errRefused)
		}
		look(dest, "open", true)
		look(origin(2), "closed", false)
		time.Sleep(3 * time.Second)
		for range 3 {
			look(dest, "open", false) // the next request would be the probe
		}
		r := c.ask(dest)
		if r.current.probe == 0 {
			t.Error("a look has taken the turn of the probe")
		}
		look(dest, "half_open", true)
		r.Tell(nil)
		look(dest, "closed", false)
	})
}

// A destination that fails from the source of one user may be well from that of another.
func TestCircuitOfSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		from := func(slot uint32, result error) error {
			r, err := c.Allow(dest, true, slot, health.ProbeLimit)
			if err == nil {
				r.Tell(result)
			}
			return err
		}
		const users = 40 // more than there are members that are told apart
		for range testConfig.Failures {
			for slot := range uint32(users) {
				if slot != 7 {
					_ = from(slot+1, errRefused)
				}
			}
		}
		for slot := range uint32(users) {
			state, paused := c.Look(dest, true, slot+1)
			if err := from(slot+1, nil); (err == nil) != (slot == 7) || (paused == nil) != (slot == 7) {
				t.Errorf("from source %d: %v; it is looked at as %s, %v", slot+1, err, state, paused)
			}
		}
		if err := from(8, errRefused); err != nil {
			t.Error(err)
		}
		if err := from(8, nil); err != nil {
			t.Errorf("after one failure: %v", err)
		}
		if name := c.Report()[0].Name; !strings.Contains(name, "from source ") {
			t.Errorf("it is reported as %s", name)
		}
	})
}

// A question about a name is charged once, however many waited for its answer or got it
// while it was remembered; the next one is charged again, and so is anything else.
func TestCircuitQuestionCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dest := newCircuitTest(t), origin(1)
		failed := func() error {
			q := new(dnscache.Question)
			return &net.DNSError{UnwrapErr: q.Because(errors.New("server failure")), Err: "server failure", Name: dest.Host, IsTemporary: true}
		}
		for range testConfig.Failures - 1 {
			err := failed()
			var all []Charge
			for range 20 {
				all = append(all, c.ask(dest))
			}
			for i := range all {
				all[i].Tell(&net.OpError{Op: "dial", Err: err})
			}
		}
		last := failed()
		c.end(dest, last)
		pause := c.refused(dest)
		time.Sleep(pause)
		probe := c.ask(dest)
		probe.Tell(last) // still remembered: it says nothing new
		if next := c.refused(dest); next > testConfig.OpenFor {
			t.Errorf("a pause of %s after a failure that was charged before", next)
		}
		time.Sleep(testConfig.OpenFor)
		c.end(dest, nil)
		c.fail(dest, testConfig.Failures)
		c.refused(dest)
	})
}
