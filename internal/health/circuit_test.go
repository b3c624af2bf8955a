package health

import (
	"math"
	"testing"
	"time"
)

var testConfig = CircuitConfig{
	Failures:   3,
	Window:     30 * time.Second,
	OpenFor:    2 * time.Second,
	MaxOpenFor: 30 * time.Second,
}

// firstProbe is the token of the first probe of a circuit.
const firstProbe Token = 1

// t0 is when the tests begin.
var t0 = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// circuitIn returns a circuit in a state, which it was brought to through the
// steps of the API. An open one ends at 2 s; a half-open one was opened twice.
func circuitIn(t *testing.T, s State) *Circuit {
	t.Helper()
	c := new(Circuit)
	if s != Closed {
		for i := range testConfig.Failures {
			if changed := c.Failure(t0, 0, testConfig); changed != (i == testConfig.Failures-1) {
				t.Fatalf("failure %d: changed %v", i+1, changed)
			}
		}
	}
	if s == HalfOpen {
		if ok, probe, _ := c.Allow(at(2*time.Second), ProbeLimit); !ok || probe != firstProbe {
			t.Fatalf("no probe after the open period: %v, %v", ok, probe)
		}
	}
	if c.State() != s {
		t.Fatalf("state is %s instead of %s", c.State(), s)
	}
	return c
}

// step is what a step returned, in a form that is easily compared.
type step struct {
	ok         bool          // of Allow
	probe      Token         // of Allow
	retryAfter time.Duration // of Allow
	changed    bool          // of Success and Failure
}

func allow(d time.Duration) func(*Circuit) step {
	return func(c *Circuit) (s step) {
		s.ok, s.probe, s.retryAfter = c.Allow(at(d), ProbeLimit)
		return s
	}
}

func failure(d time.Duration, probe Token) func(*Circuit) step {
	return func(c *Circuit) step { return step{changed: c.Failure(at(d), probe, testConfig)} }
}

func success(c *Circuit) step { return step{changed: c.Success()} }

func unsettled(d time.Duration, probe Token) func(*Circuit) step {
	return func(c *Circuit) step { c.Unsettled(at(d), probe); return step{} }
}

// TestTransitions has every step in every state.
func TestTransitions(t *testing.T) {
	const s = time.Second
	for _, tc := range []struct {
		name string
		from State
		do   func(*Circuit) step
		want step
		to   State
	}{
		{"closed lets pass", Closed, allow(0), step{ok: true}, Closed},
		{"closed success", Closed, success, step{}, Closed},
		{"closed failure, one of three", Closed, failure(0, 0), step{}, Closed},
		{"closed, a probe of before fails", Closed, failure(0, firstProbe), step{}, Closed},
		{"closed, a probe of before is unsettled", Closed, unsettled(0, firstProbe), step{}, Closed},

		{"open refuses", Open, allow(0), step{retryAfter: 2 * s}, Open},
		{"open refuses to the end", Open, allow(2*s - 1), step{retryAfter: 1}, Open},
		{"open lets a probe through at its end", Open, allow(2 * s), step{ok: true, probe: firstProbe}, HalfOpen},
		{"open lets a probe through long after", Open, allow(24 * time.Hour), step{ok: true, probe: firstProbe}, HalfOpen},
		{"open, late success", Open, success, step{changed: true}, Closed},
		{"open, late failure", Open, failure(s, 0), step{}, Open},
		{"open, late failure after the period", Open, failure(3*s, 0), step{}, Open},
		{"open, a probe of before fails", Open, failure(s, firstProbe), step{}, Open},
		{"open, a probe of before is unsettled", Open, unsettled(s, firstProbe), step{}, Open},

		{"half-open refuses others", HalfOpen, allow(2 * s), step{retryAfter: s}, HalfOpen},
		{"half-open refuses others until the probe has had its time", HalfOpen, allow(32*s - 1), step{retryAfter: s}, HalfOpen},
		{"half-open for too long", HalfOpen, allow(32 * s), step{ok: true, probe: firstProbe + 1}, HalfOpen},
		{"half-open for far too long", HalfOpen, allow(time.Hour), step{ok: true, probe: firstProbe + 1}, HalfOpen},
		{"half-open, success", HalfOpen, success, step{changed: true}, Closed},
		{"half-open, the probe fails", HalfOpen, failure(3*s, firstProbe), step{changed: true}, Open},
		{"half-open, late failure of another", HalfOpen, failure(3*s, 0), step{}, HalfOpen},
		{"half-open, late failure of another probe", HalfOpen, failure(3*s, firstProbe+1), step{}, HalfOpen},
		{"half-open, unsettled", HalfOpen, unsettled(3*s, firstProbe), step{}, Open},
		{"half-open, another one is unsettled", HalfOpen, unsettled(3*s, firstProbe+1), step{}, HalfOpen},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := circuitIn(t, tc.from)
			if got := tc.do(c); got != tc.want {
				t.Errorf("returned %+v, want %+v", got, tc.want)
			}
			if c.State() != tc.to {
				t.Errorf("is %s, want %s", c.State(), tc.to)
			}
		})
	}
}

// TestTransitionsThatMustNotMoveTheEnd: neither late failures nor a probe
// that was told of change when the probe may go.
func TestTransitionsThatMustNotMoveTheEnd(t *testing.T) {
	for name, do := range map[string]func(*Circuit) step{
		"late failure": failure(time.Second, 0),
		"late probe":   failure(time.Second, firstProbe),
		"unsettled":    unsettled(time.Second, firstProbe),
	} {
		c := circuitIn(t, Open)
		do(c)
		if _, _, wait := c.Allow(at(time.Second), ProbeLimit); wait != time.Second {
			t.Errorf("%s: open for another %s, want 1s", name, wait)
		}
	}
}

// TestOpensOnFailuresInARow: exactly when the last three failures fall within
// the window, with no success between them.
func TestOpensOnFailuresInARow(t *testing.T) {
	const s = time.Second
	const ok = time.Duration(-1) // a success in place of a failure
	for _, tc := range []struct {
		name  string
		times []time.Duration
		opens int // index of the step that opens it, -1 for none
	}{
		{"at once", []time.Duration{0, 0, 0}, 2},
		{"within the window to the end", []time.Duration{0, 15 * s, 30 * s}, 2},
		{"the first is too old", []time.Duration{0, 15 * s, 30*s + 1}, -1},
		{"the first two are too old", []time.Duration{0, 1 * s, 40 * s, 41 * s}, -1},
		// The window slides: what is left of a run that has grown too old
		// counts for the next.
		{"the last of an old run and two more", []time.Duration{0, 29 * s, 31 * s, 32 * s}, 3},
		{"slow failures never", []time.Duration{0, 16 * s, 32 * s, 48 * s, 64 * s, 80 * s}, -1},
		{"a success between", []time.Duration{0, 0, ok, 0, 0}, -1},
		{"a success before", []time.Duration{0, 0, ok, 0, 0, 0}, 5},
		{"a clock that goes back a little", []time.Duration{2 * s, 1 * s, 0}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var c Circuit
			opened := -1
			for i, d := range tc.times {
				if d == ok {
					c.Success()
				} else if c.Failure(at(d), 0, testConfig) && opened < 0 {
					opened = i
				}
			}
			if opened != tc.opens {
				t.Errorf("opened at step %d, want %d", opened, tc.opens)
			}
		})
	}
}

// openPeriods fails n probes in a row and returns how long each open period was.
func openPeriods(c *Circuit, cfg CircuitConfig, n int) (periods []time.Duration) {
	now := t0
	for range cfg.Failures {
		c.Failure(now, 0, cfg)
	}
	for range n {
		_, _, wait := c.Allow(now, ProbeLimit)
		periods = append(periods, wait)
		now = now.Add(wait)
		ok, probe, _ := c.Allow(now, ProbeLimit)
		if !ok || probe == 0 {
			return periods
		}
		c.Failure(now, probe, cfg)
	}
	return periods
}

func TestGrowth(t *testing.T) {
	var c Circuit
	got := openPeriods(&c, testConfig, 9)
	want := []time.Duration{ // 2 s × 1.6ⁿ, at most 30 s
		2 * time.Second, 3200 * time.Millisecond, 5120 * time.Millisecond, 8192 * time.Millisecond,
		13107200 * time.Microsecond, 20971520 * time.Microsecond,
		30 * time.Second, 30 * time.Second, 30 * time.Second,
	}
	for i := range want {
		if len(got) <= i || got[i] != want[i] {
			t.Fatalf("open periods are %v, want %v", got, want)
		}
	}
	c.Success()
	if got := openPeriods(&c, testConfig, 2); got[0] != want[0] || got[1] != want[1] {
		t.Errorf("after a success, open periods are %v, want %v", got, want[:2])
	}
}

// TestGrowthHasNoOverflow: the product would wrap around to a negative time, and
// the circuit would never be shut again.
func TestGrowthHasNoOverflow(t *testing.T) {
	cfg := testConfig
	cfg.MaxOpenFor = math.MaxInt64
	c := Circuit{state: HalfOpen, openFor: math.MaxInt64 - 1, last: firstProbe}
	c.Failure(t0, firstProbe, cfg)
	if c.openFor != math.MaxInt64 {
		t.Errorf("open for %s, want %s", c.openFor, cfg.MaxOpenFor)
	}
}

// TestUnsettledKeepsGrowth: a probe without a result is neither a success nor a
// failure, and opens the circuit for at least as long as it has waited.
func TestUnsettledKeepsGrowth(t *testing.T) {
	const s = time.Second
	for waited, want := range map[time.Duration]time.Duration{0: 2 * s, s: 2 * s, 7 * s: 7 * s, time.Hour: 30 * s} {
		c := circuitIn(t, HalfOpen)
		now := 2*s + waited
		c.Unsettled(at(now), firstProbe)
		now += want
		if ok, _, _ := c.Allow(at(now-1), ProbeLimit); ok {
			t.Errorf("waited %s: another probe before %s are over", waited, want)
		}
		ok, probe, _ := c.Allow(at(now), ProbeLimit)
		if !ok || probe == 0 {
			t.Fatalf("waited %s: no probe after %s", waited, want)
		}
		c.Failure(at(now), probe, testConfig)
		if _, _, wait := c.Allow(at(now), ProbeLimit); wait != 3200*time.Millisecond {
			t.Errorf("waited %s: open for %s after one failed probe, want 3.2s", waited, wait)
		}
	}
}

// TestProbeThatToldNothing: one whose client left keeps the circuit open for as long as
// it has waited, one that was not sent not at all.
func TestProbeThatToldNothing(t *testing.T) {
	const s = time.Second
	for waited, want := range map[time.Duration]time.Duration{0: 0, 5 * time.Millisecond: 5 * time.Millisecond, 7 * s: 7 * s, time.Hour: 30 * s} {
		c := circuitIn(t, HalfOpen)
		now := 2*s + waited
		c.Left(at(now), firstProbe)
		if d := c.Shut(at(now)); d != want {
			t.Errorf("client left after %s: shut for %s", waited, d)
		}
		c = circuitIn(t, HalfOpen)
		c.GiveBack(at(now), firstProbe)
		ok, probe, _ := c.Allow(at(now), ProbeLimit)
		if !ok || probe == 0 {
			t.Errorf("not sent after %s: the next request is no probe", waited)
		}
		if c.GiveBack(at(now), firstProbe); c.State() != HalfOpen {
			t.Error("a turn was given back twice")
		}
		if c.Failure(at(now), probe, testConfig); c.Shut(at(now)) != 3200*time.Millisecond {
			t.Errorf("open for %s after one failed probe", c.Shut(at(now)))
		}
	}
}

// TestLateProbe: a probe whose turn is over tells a result after all. It counts, beside
// that of the next probe, until either has told one.
func TestLateProbe(t *testing.T) {
	const s = time.Second
	late := func() (c *Circuit, second Token) {
		c = circuitIn(t, HalfOpen)
		_, second, _ = c.Allow(at(32*s), ProbeLimit)
		if second == 0 || second == firstProbe {
			t.Fatalf("token %d of the second probe", second)
		}
		return c, second
	}
	c, _ := late()
	if c.Unsettled(at(33*s), firstProbe); c.State() != HalfOpen {
		t.Errorf("the first one ended without a result: %s", c.State())
	}
	c, second := late()
	if c.Failure(at(33*s), firstProbe, testConfig); c.until != at(33*s+3200*time.Millisecond) {
		t.Errorf("the first one failed: open until %s", c.until.Sub(t0))
	}
	if c.Failure(at(34*s), second, testConfig) || c.until != at(33*s+3200*time.Millisecond) {
		t.Errorf("both failed: open until %s", c.until.Sub(t0))
	}
	c, second = late()
	if c.Unsettled(at(33*s), second); c.until != at(35*s) {
		t.Errorf("the second one ended without a result: open until %s", c.until.Sub(t0))
	}
	if c.Failure(at(34*s), firstProbe, testConfig); c.until != at(34*s+3200*time.Millisecond) {
		t.Errorf("then the first one failed: open until %s", c.until.Sub(t0))
	}
}

// TestProbeOutlivesItsCircuit: while a probe is under way, a late success closes
// the circuit. The failure of the probe is then one failure, not a reason to
// open at once.
func TestProbeOutlivesItsCircuit(t *testing.T) {
	c := circuitIn(t, HalfOpen)
	c.Success()
	if c.Failure(at(3*time.Second), firstProbe, testConfig) || c.State() != Closed {
		t.Fatal("a single failure opened a closed circuit")
	}
	c.Failure(at(3*time.Second), 0, testConfig)
	if !c.Failure(at(3*time.Second), 0, testConfig) {
		t.Error("the failure of the probe did not count")
	}
}

func TestStateString(t *testing.T) {
	for s, want := range map[State]string{Closed: "closed", Open: "open", HalfOpen: "half_open"} {
		if s.String() != want {
			t.Errorf("%d is %q, want %q", s, s.String(), want)
		}
	}
}
