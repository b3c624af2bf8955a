package health

import (
	"math"
	"testing"
	"time"
)

func TestSuccessRate(t *testing.T) {
	for _, tc := range []struct {
		name           string
		passed, failed int // alternating, then the rest; the last is a failure
		gap            time.Duration
		opens          bool
	}{
		{"half of 20", 10, 10, 0, false},
		{"under half of 19", 9, 10, 0, false},
		{"under half of 21", 10, 11, 0, true},
		{"under half of 20", 9, 11, 0, true},
		{"too long ago", 9, 11, 2 * sec, false},
	} {
		u := new(Upstream)
		now := time.Duration(0)
		var tr Transition
		for tc.passed+tc.failed > 0 {
			if tc.passed > 0 && tc.passed >= tc.failed-1 || tc.failed == 0 {
				tc.passed--
				observe(u, now, Observation{Kind: Success})
			} else {
				tc.failed--
				tr = observe(u, now, Observation{Kind: Failure})
			}
			now += tc.gap
		}
		if tr.Changed() != tc.opens || tc.opens && tr.Reason != ReasonSuccessRate {
			t.Errorf("%s: opens %v (%s)", tc.name, tr.Changed(), tr.Reason)
		}
	}
}

// TestSuccessRateStartsAnew: what was counted before a circuit opened does not open
// it again.
func TestSuccessRateStartsAnew(t *testing.T) {
	u := new(Upstream)
	repeat(u, 0, 4, Observation{Kind: Failure})
	repeat(u, 0, 4, Observation{Kind: Success})
	for range 6 {
		observe(u, 0, Observation{Kind: Success})
		repeat(u, 0, 2, Observation{Kind: Failure})
	}
	if u.Status().Circuit != Open {
		t.Fatal("10 of 26 did not open it")
	}
	observe(u, 10*sec, Observation{Kind: Success, Probe: probeAt(t, u, 10*sec)})
	repeat(u, 10*sec, 4, Observation{Kind: Failure})
	if u.Status().Circuit != Closed {
		t.Error("opened again")
	}
}

// TestOffMeansOff: with both triggers off nothing opens the circuit.
func TestOffMeansOff(t *testing.T) {
	cfg := exactConfig()
	cfg.ConsecutiveFailures, cfg.MinSuccessRate = 0, 0
	var u Upstream
	for range 1000 {
		if tr, _ := u.Observe(at(0), &cfg, Observation{Kind: ConnectFailure}); tr.Changed() {
			t.Fatal("opened")
		}
	}
}

// TestOpenPeriods: 10 s × n up to 300 s, and n shrinks by one a minute of health.
func TestOpenPeriods(t *testing.T) {
	u, _ := upstreamAt(t, opened)
	now := 10 * sec
	for n := 2; n <= 40; n++ {
		observe(u, now, Observation{Kind: Failure, Probe: probeAt(t, u, now)})
		period := min(time.Duration(n)*10*sec, 300*sec)
		if _, ok := tryProbe(u, now+period-1); ok {
			t.Fatalf("n = %d: a probe before %s", n, period)
		}
		now += period
	}
	observe(u, now, Observation{Kind: Success, Probe: probeAt(t, u, now)})
	if tr := repeat(u, now+28*time.Minute, 5, Observation{Kind: Failure}); !tr.Changed() {
		t.Fatal("did not open")
	}
	if got := u.breaker.until.sub(instantAt(now + 28*time.Minute)); got != 40*sec { // 31 - 28 + 1
		t.Errorf("open for %s after 28 minutes of health", got)
	}
	now += 29 * time.Minute
	observe(u, now, Observation{Kind: Success, Probe: probeAt(t, u, now)})
	repeat(u, now+time.Hour, 5, Observation{Kind: Failure})
	if got := u.breaker.until.sub(instantAt(now + time.Hour)); got != 10*sec {
		t.Errorf("open for %s after an hour of health", got)
	}
}

func TestOpenPeriodsAreJittered(t *testing.T) {
	cfg := DefaultUpstreamConfig()
	seen := make(map[time.Duration]bool)
	for range 100 {
		var u Upstream
		for range 5 {
			u.Observe(at(0), &cfg, Observation{Kind: Failure})
		}
		d := u.breaker.until.sub(instantAt(0))
		if d < 9*sec || d > 10*sec {
			t.Fatalf("open for %s", d)
		}
		seen[d] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different periods of 100", len(seen))
	}
}

// TestNoGrowthOverflow: the product would wrap around.
func TestNoGrowthOverflow(t *testing.T) {
	cfg := exactConfig()
	cfg.OpenFor, cfg.MaxOpenFor = math.MaxInt64/8, math.MaxInt64/4
	b := breaker{openings: math.MaxInt - 1, state: HalfOpen}
	b.open(0, &cfg, true, 0)
	if b.until != math.MaxInt64/4 {
		t.Errorf("open for %d", b.until)
	}
}

// TestBreakerGivesOneTurn: only an open circuit whose time is over has one to give.
func TestBreakerGivesOneTurn(t *testing.T) {
	cfg := exactConfig()
	for _, tc := range []struct {
		state State
		now   time.Duration
		want  bool
	}{
		{Closed, 20 * sec, false}, {HalfOpen, 20 * sec, false}, {Open, 10*sec - 1, false}, {Open, 10 * sec, true},
	} {
		b := breaker{state: tc.state, until: instantAt(10 * sec)}
		if tok := b.tryProbe(instantAt(tc.now), 0, ProbeLimit, &cfg); (tok != 0) != tc.want {
			t.Errorf("%s at %s: token %d", tc.state, tc.now, tok)
		}
	}
	b := breaker{state: Open, probe: ^Token(0)}
	if tok := b.tryProbe(1, 0, ProbeLimit, &cfg); tok == 0 {
		t.Error("a token that is none")
	}
}
