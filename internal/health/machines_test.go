package health

import (
	"math"
	"testing"
	"time"
)

const sec = time.Second

func instantAt(d time.Duration) instant { return instantOf(at(d)) }

func TestStatusPacks(t *testing.T) {
	n := 0
	for _, admin := range []Admin{Ready, Drain, Maint} {
		for _, active := range []Active{Unknown, Up, Down} {
			for _, circuit := range []State{Closed, Open, HalfOpen} {
				for bits := range 16 {
					s := Status{admin, active, circuit, bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0}
					if got := unpack(s.pack()); got != s {
						t.Fatalf("%+v became %+v", s, got)
					}
					want := admin == Ready && active != Down && circuit == Closed
					if s.InRotation() != want {
						t.Errorf("%+v: in rotation %v", s, s.InRotation())
					}
					n++
				}
			}
		}
	}
	if n != 432 {
		t.Errorf("%d combinations", n)
	}
}

// TestRiseAndFall has every sequence of results that matters: p passes, f fails,
// and after each the state as a letter (u, d) and, if it changed, in upper case.
func TestRiseAndFall(t *testing.T) {
	for _, tc := range []struct{ results, states string }{
		{"p", "U"},                 // the first decides
		{"f", "D"},                 //
		{"pff", "Uuu"},             // two failures are not three
		{"pfff", "UuuD"},           //
		{"pffpff", "Uuuuuu"},       // the opposite starts anew
		{"pffpfff", "UuuuuuD"},     //
		{"fp", "Dd"},               //
		{"fpp", "DdU"},             //
		{"fpfp", "Dddd"},           //
		{"fpfpp", "DdddU"},         //
		{"pfffppfff", "UuuDdUuuD"}, //
		{"ffff", "Dddd"},
		{"pppp", "Uuuu"},
	} {
		var a activity
		got := ""
		for _, r := range tc.results {
			var changed bool
			a, changed = a.next(r == 'p', 2, 3)
			got += map[bool]map[Active]string{
				true:  {Up: "U", Down: "D", Unknown: "?"},
				false: {Up: "u", Down: "d", Unknown: "?"},
			}[changed][a.state]
		}
		if got != tc.states {
			t.Errorf("%s: %s, want %s", tc.results, got, tc.states)
		}
	}
	if a, changed := (activity{state: Up}).next(false, 1, 1); a.state != Down || !changed {
		t.Error("fall 1: one failure does not do")
	}
}

func TestPace(t *testing.T) {
	p := pace{interval: 10 * sec, fast: sec, idle: 60 * sec, maxInterval: 60 * sec}
	up, down := activity{state: Up}, activity{state: Down}
	for _, tc := range []struct {
		name    string
		a       activity
		backoff time.Duration
		outcome CheckOutcome
		traffic bool
		want    plan
	}{
		{"up", up, 0, Passed, true, plan{wait: 10 * sec}},
		{"up, unused", up, 0, Passed, false, plan{wait: 60 * sec, idle: true}},
		{"up, falling", activity{state: Up, run: 1}, 0, Failed, true, plan{wait: sec, exact: true}},
		{"up, falling, unused", activity{state: Up, run: 2}, 0, Failed, false, plan{wait: sec, exact: true}},
		{"up, falling, but the last says nothing", activity{state: Up, run: 2}, 0, Inconclusive, true, plan{wait: 10 * sec}},
		{"unknown, inconclusive", activity{}, 0, Inconclusive, true, plan{wait: 10 * sec}},
		{"just down", down, 0, Failed, true, plan{wait: 10 * sec, backoff: 10 * sec}},
		{"down", down, 10 * sec, Failed, true, plan{wait: 16 * sec, backoff: 16 * sec}},
		{"down, unused", down, 16 * sec, Failed, false, plan{wait: 25600 * time.Millisecond, backoff: 25600 * time.Millisecond}},
		{"down for long", down, 50 * sec, Failed, true, plan{wait: 60 * sec, backoff: 60 * sec}},
		{"down, rising", activity{state: Down, run: 1}, 60 * sec, Passed, true, plan{wait: sec, exact: true}},
		{"credentials refused", up, 0, Unauthorized, true, plan{wait: 10 * sec, backoff: 10 * sec}},
		{"credentials refused again", up, 10 * sec, Unauthorized, true, plan{wait: 16 * sec, backoff: 16 * sec}},
		{"up again", up, 60 * sec, Passed, true, plan{wait: 10 * sec}},
	} {
		if got := p.next(tc.a, tc.backoff, tc.outcome, tc.traffic); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
	slow := pace{interval: 120 * sec, fast: sec, idle: 60 * sec, maxInterval: 60 * sec}
	if got := slow.next(down, 120*sec, Failed, true); got.wait != 120*sec {
		t.Errorf("backing off speeds checks up: %s", got.wait)
	}
	if got := slow.next(up, 0, Passed, false); got.wait != 120*sec {
		t.Errorf("being unused speeds checks up: %s", got.wait)
	}
}

func TestWindow(t *testing.T) {
	const length = 30 * sec
	var w window
	expect := func(d time.Duration, passed, failed int) {
		t.Helper()
		if p, f := w.counts(instantAt(d), length); p != passed || f != failed {
			t.Errorf("at %s: %d and %d, want %d and %d", d, p, f, passed, failed)
		}
	}
	base := instantAt(0)
	start := 3*sec - time.Duration(base)%(3*sec) // the next turn of a bucket
	w.add(instantAt(start), length, true)
	w.add(instantAt(start+3*sec-1), length, true)
	w.add(instantAt(start+3*sec), length, false)
	expect(start+3*sec, 2, 1)
	expect(start+30*sec-1, 2, 1)
	expect(start+30*sec, 0, 1)
	expect(start+33*sec, 0, 0)
	for i := range 100 { // every bucket is used again and again
		w.add(instantAt(start+time.Duration(i)*sec), length, i%4 == 0)
	}
	if p, f := w.counts(instantAt(start+99*sec), length); p+f != 9*3+1 {
		t.Errorf("%d results in the last 30 s, of one a second", p+f)
	}
	w.reset()
	expect(start+99*sec, 0, 0)
}

// TestWindowOfAnotherLength: buckets of before a change of the length do not count.
func TestWindowOfAnotherLength(t *testing.T) {
	var w window
	for i := range 30 {
		w.add(instantAt(time.Duration(i)*sec), 30*sec, false)
	}
	for _, length := range []time.Duration{10 * sec, 60 * sec} {
		if p, f := w.counts(instantAt(30*sec), length); p+f != 0 {
			t.Errorf("%s: %d results of another length", length, p+f)
		}
		w.add(instantAt(30*sec), length, true)
		if p, f := w.counts(instantAt(30*sec), length); p != 1 || f != 0 {
			t.Errorf("%s: %d, %d after one success", length, p, f)
		}
	}
}

func TestRamp(t *testing.T) {
	for _, tc := range []struct {
		now, since time.Duration
		length     time.Duration
		want       float64
	}{
		{0, 0, 30 * sec, 0.1},
		{15 * sec, 0, 30 * sec, 0.55},
		{30 * sec, 0, 30 * sec, 1},
		{time.Hour, 0, 30 * sec, 1},
		{0, 5 * sec, 30 * sec, 0.1}, // not begun
		{0, 0, 0, 1},
		{0, 5 * sec, 0, 0.1},
	} {
		if got := ramp(instantAt(tc.now), instantAt(tc.since), tc.length); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%s after %s over %s: %v, want %v", tc.now, tc.since, tc.length, got, tc.want)
		}
	}
	if ramp(instantAt(0), 0, 30*sec) != 1 {
		t.Error("what never began is not whole")
	}
}

func TestSuspicion(t *testing.T) {
	var s suspicion
	for i := range suspects - 1 {
		s.add(instantAt(time.Duration(i)*sec), uint64(i+1), 0)
		s.add(instantAt(time.Duration(i)*sec), uint64(i+1), 0) // the same one again
		s.add(instantAt(time.Duration(i)*sec), 0, 0)           // none
	}
	if s.suspect() || s.ask(instantAt(4*sec)) {
		t.Fatal("four destinations make it suspect")
	}
	s.add(instantAt(4*sec), 5, 0)
	if !s.suspect() || !s.ask(instantAt(4*sec)) {
		t.Fatal("five destinations do not make it suspect")
	}
	if s.ask(instantAt(5 * sec)) {
		t.Error("asks twice")
	}
	s.answeredElsewhere(instantAt(5*sec), 1)
	s.answeredElsewhere(instantAt(5*sec), 2)
	s.answeredElsewhere(instantAt(5*sec), 2)
	s.answeredElsewhere(instantAt(5*sec), 99)
	if yes, _, _ := s.convicted(instantAt(6 * sec)); yes {
		t.Error("two witnesses convict")
	}
	s.add(instantAt(6*sec), 2, 0) // failed again: it was reached all the same
	s.answeredElsewhere(instantAt(6*sec), 3)
	if yes, _, _ := s.convicted(instantAt(6 * sec)); !yes {
		t.Error("three witnesses do not convict")
	}
	s.clear()
	if yes, _, _ := s.convicted(instantAt(6 * sec)); s.suspect() || yes || s.asked != 0 {
		t.Error("not cleared")
	}
}

func TestSuspicionExpires(t *testing.T) {
	var s suspicion
	for i := range 100 { // one each 8 seconds: never five in 30
		s.add(instantAt(time.Duration(i)*8*sec), uint64(i+1), 0)
		if s.suspect() {
			t.Fatalf("%d in 30 s", len(s.fails))
		}
	}
	s.clear()
	for i := range 5 {
		s.add(instantAt(time.Duration(i)*7500*time.Millisecond), uint64(i+1), 0)
	}
	if !s.suspect() {
		t.Error("five in 30 s to the end do not count")
	}
}

func TestSuspicionIsBounded(t *testing.T) {
	var s suspicion
	for i := range 10_000 {
		s.add(instantAt(0), uint64(i+1), 0)
	}
	if len(s.fails) != maxSoftFails || cap(s.fails) > 2*maxSoftFails || s.fails[0].destination != 10_000-maxSoftFails+1 {
		t.Errorf("remembers %d (room for %d), the oldest is %d", len(s.fails), cap(s.fails), s.fails[0].destination)
	}
}

func TestDestination(t *testing.T) {
	a, b := Destination("a.example:443"), Destination("b.example:443")
	if a == 0 || a == b || a != Destination("a.example:443") {
		t.Errorf("%d, %d", a, b)
	}
	c := Destination("a.example:80")
	if c == a || hostOf(c) != hostOf(a) || hostOf(a) == hostOf(b) || hostOf(a) == 0 {
		t.Errorf("%d and %d are one host, and %d is not", a, c, b)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tc := range []struct {
		change func(*UpstreamConfig)
		want   string
	}{
		{func(*UpstreamConfig) {}, ""},
		{func(c *UpstreamConfig) { c.ConsecutiveFailures = -1 }, "consecutive_failures: -1 is negative"},
		{func(c *UpstreamConfig) { c.MinSuccessRate = 1.5 }, "min_success_rate: 1.5 is not between 0 and 1"},
		{func(c *UpstreamConfig) { c.MaxEjected = math.NaN() }, "max_ejected: NaN is not between 0 and 1"},
		{func(c *UpstreamConfig) { c.PanicBelow = -1 }, "panic_below: -1 is not between 0 and 1"},
		{func(c *UpstreamConfig) { c.Window = 0 }, "window: 0s is shorter than 10ms"},
		{func(c *UpstreamConfig) { c.MinSamples = 0 }, "min_samples: 0 is too low: at least 1"},
		{func(c *UpstreamConfig) { c.MinSuccessRate, c.Window, c.MinSamples = 0, 0, 0 }, ""},
		{func(c *UpstreamConfig) { c.OpenFor = 0 }, "open_for: 0s is not positive"},
		{func(c *UpstreamConfig) { c.MaxOpenFor = sec }, "max_open_for: 1s is shorter than open_for (10s)"},
		{func(c *UpstreamConfig) { c.Jitter = 1 }, "jitter: 1 is not between 0 and 1"},
		{func(c *UpstreamConfig) { c.SlowStart = -1 }, "slow_start: -1ns is negative"},
	} {
		c := DefaultUpstreamConfig()
		tc.change(&c)
		got := ""
		if err := c.Validate(); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
