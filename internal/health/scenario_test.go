package health

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestScenario21: 100 CONNECTs to a name that does not resolve, and 100 to a dead
// destination that the upstreams do not explain, leave all upstreams up.
func TestScenario21(t *testing.T) {
	for name, kind := range map[string]Kind{
		"Proxy-Status names DNS": Success, "no detail": SoftFail, "no reply": ReplyTimeout,
	} {
		g := newGroup(t, 3, exactConfig())
		dest := Destination("dead.example:443")
		for i := range 100 {
			for n := range 3 { // each is tried
				d := time.Duration(i) * 100 * time.Millisecond
				out := groupObserve(g, n, d, 1, Observation{Kind: kind, Destination: dest, Started: at(d - 5*sec)})
				if out.Transitions != nil || out.Doubt == Suspect {
					t.Fatalf("%s: %+v", name, out)
				}
			}
		}
		if got := picks(g.Available(at(10 * sec))); got != "0 1 2" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestScenario21Probe: not even as the result of a probe does a dead destination
// make the open period longer.
func TestScenario21Probe(t *testing.T) {
	u, tok := upstreamAt(t, probing)
	for d := 10 * sec; d < 200*sec; d += 10 * sec {
		observe(u, d, Observation{Kind: SoftFail, Destination: 1, Probe: tok})
		tok = probeAt(t, u, d+10*sec)
	}
}

// fiveSites fails five good sites through member 0 and returns the last outcome.
func fiveSites(g *Group, now time.Time) (out Outcome) {
	for i := range 5 {
		if out.Ask != AskNothing {
			return out // too early
		}
		dest := Destination(fmt.Sprintf("good%d.example:443", i))
		out = g.Observe(now, g.Members()[0], Observation{Kind: SoftFail, Destination: dest})
	}
	return out
}

// TestScenario22: 502 for five distinct good sites → check at once → fails → out;
// and if the check passes, it stays.
func TestScenario22(t *testing.T) {
	for _, deadUplink := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"check.example:443"} })
			l.restart()
			l.wait(5 * sec)
			l.take(&l.edges)
			if deadUplink {
				l.set(errTarget, 0)
			}
			out := fiveSites(l.g, time.Now())
			if out.Doubt != Suspect || out.Ask != AskCheck || out.Transitions != nil {
				t.Fatalf("%+v", out)
			}
			l.c.CheckNow(l.g.Members()[0])
			synctest.Wait()
			if !deadUplink {
				l.expect("edges", &l.edges, "")
				if r := l.g.Members()[0].Upstream.Report(time.Now(), &l.g.cfg.UpstreamConfig); r.SoftFails != 0 {
					t.Errorf("still suspect: %+v", r)
				}
				return
			}
			l.expect("edges", &l.edges, "5 0 circuit_open")
			if s := l.status(0); s.Active != Up || s.Circuit != Open {
				t.Errorf("%+v", s)
			}
			if got := picks(l.g.Available(time.Now())); got != "1 2" {
				t.Errorf("%q", got)
			}
		})
	}
}

// TestScenario22Stale: a check that began before the suspicion does not answer it.
func TestScenario22Stale(t *testing.T) {
	cfg := exactConfig()
	g := newGroup(t, 3, cfg)
	fiveSites(g, at(10*sec))
	u := g.Members()[0].Upstream
	if trs := u.ObserveCheck(at(11*sec), &cfg, 2, 3, CheckResult{Outcome: Failed, Started: at(9 * sec)}); len(trs) != 1 || trs[0].Event() != EventUnhealthy {
		t.Errorf("%+v", trs)
	}
	trs := u.ObserveCheck(at(12*sec), &cfg, 2, 3, CheckResult{Outcome: Failed, Started: at(10 * sec)})
	if len(trs) != 1 || trs[0].Event() != EventCircuitOpen || trs[0].Reason != ReasonSuspicion {
		t.Errorf("%+v", trs)
	}
}

// TestScenario22TargetDown: with the target down as well, nothing is known.
func TestScenario22TargetDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 3, func(c *CheckerConfig) { c.Targets = []string{"check.example:443"} })
		l.restart()
		l.wait(5 * sec)
		l.take(&l.edges)
		l.setTarget("check.example:443", errTarget)
		fiveSites(l.g, time.Now())
		l.c.CheckNow(l.g.Members()[0])
		l.wait(sec)
		l.expect("edges", &l.edges, "")
	})
}

// TestScenario22OtherPath: without a check, three of the sites answering through
// another upstream, or past the group, convict it.
func TestScenario22OtherPath(t *testing.T) {
	for _, direct := range []bool{false, true} {
		g := newGroup(t, 3, exactConfig())
		elsewhere := func(i int) []Transition {
			dest := Destination(fmt.Sprintf("good%d.example:443", i))
			if direct {
				return g.AnsweredElsewhere(at(sec), dest)
			}
			return groupObserve(g, 1, sec, 1, Observation{Kind: Success, Reached: true, Destination: dest}).Transitions
		}
		if out := fiveSites(g, at(0)); out.Doubt != Suspect || out.Ask != AskNothing {
			t.Fatalf("%+v", out)
		}
		for _, i := range []int{0, 1, 1, 0, 99} {
			if trs := elsewhere(i); trs != nil {
				t.Fatalf("two sites convict: %+v", trs)
			}
		}
		trs := elsewhere(4)
		if len(trs) != 1 || trs[0].Event() != EventCircuitOpen || trs[0].Reason != ReasonElsewhere ||
			trs[0].Upstream != g.Members()[0].Upstream {
			t.Errorf("direct %v: %+v", direct, trs)
		}
	}
}

// TestScenario22Retried: each site is retried through another upstream at once, and
// answers there: the fifth failure convicts.
func TestScenario22Retried(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	for i := range 5 {
		o := Observation{Kind: SoftFail, Destination: uint64(i + 1)}
		out := groupObserve(g, 0, 0, 1, o)
		if got := len(out.Transitions); got != i/4 {
			t.Errorf("site %d: %+v", i, out)
		}
		o.Kind, o.Reached = Success, true
		groupObserve(g, 1, 0, 1, o)
	}
}

// TestSuspicionCountsHosts: that one host fails on many ports, which answer on another
// path, says no more than that it fails.
func TestSuspicionCountsHosts(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	for i := range 50 {
		o := Observation{Kind: SoftFail, Destination: Destination(fmt.Sprintf("picky.example:%d", i+1))}
		out := groupObserve(g, 0, 0, 1, o)
		if out.Doubt != NoDoubt || out.Transitions != nil {
			t.Fatalf("port %d: %+v", i+1, out)
		}
		o.Kind, o.Reached = Success, true
		if out := groupObserve(g, 1, 0, 1, o); out.Transitions != nil {
			t.Fatalf("port %d: %+v", i+1, out)
		}
	}
}

// TestScenario22Success: one success between, and nothing is suspected.
func TestScenario22Success(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	for i := range 100 {
		if i%4 == 3 {
			groupObserve(g, 0, 0, 1, Observation{Kind: Success, Reached: true, Destination: 1000})
		}
		if out := groupObserve(g, 0, 0, 1, Observation{Kind: SoftFail, Destination: uint64(i + 1)}); out.Doubt != NoDoubt {
			t.Fatalf("site %d: %+v", i, out)
		}
	}
}

// TestSuspicionOfOne: with neither a check target nor another path, it is a
// warning, once.
func TestSuspicionOfOne(t *testing.T) {
	for _, tc := range []struct {
		members   int
		otherPath bool
		want      Ask
	}{{1, false, AskWarn}, {1, true, AskNothing}, {2, false, AskNothing}} {
		g := newGroup(t, tc.members, exactConfig())
		g.cfg.OtherPath = tc.otherPath
		if out := fiveSites(g, at(0)); out.Ask != tc.want || out.Doubt != Suspect {
			t.Errorf("%+v: %+v", tc, out)
		}
		if out := groupObserve(g, 0, sec, 1, Observation{Kind: SoftFail, Destination: 77}); out.Ask != AskNothing {
			t.Errorf("%+v: asks twice", tc)
		}
	}
}

// TestSuspicionNeedsATarget: that an upstream accepts connections says nothing about
// its uplink, but it does say something about one that does not reply.
func TestSuspicionNeedsATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1, nil)
		l.restart()
		if out := fiveSites(l.g, time.Now()); out.Doubt != Suspect || out.Ask != AskWarn {
			t.Errorf("%+v", out)
		}
		o := Observation{Kind: ReplyTimeout, Destination: 9, Started: time.Now()}
		if out := l.g.Observe(time.Now(), l.g.Members()[0], o); out.Doubt != Unanswered || out.Ask != AskCheck {
			t.Errorf("%+v", out)
		}
	})
}

// TestSuspicionStartsAnew: what failed before a circuit opened is not held against
// the upstream afterwards.
func TestSuspicionStartsAnew(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	for i := range 4 {
		groupObserve(g, 0, 0, 1, Observation{Kind: SoftFail, Destination: uint64(i + 1)})
	}
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	_, tok, _ := g.TryProbe(at(10*sec), 0, nil)
	groupObserve(g, 0, 10*sec, 1, Observation{Kind: Overload, Probe: tok})
	if out := groupObserve(g, 0, 10*sec, 1, Observation{Kind: SoftFail, Destination: 5}); out.Doubt != NoDoubt {
		t.Errorf("%+v", out)
	}
}

// TestUnanswered: no reply in time asks for a check if nothing was answered since
// the request was sent; the check's failure counts as one of five.
func TestUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2, func(c *CheckerConfig) { c.Targets = []string{"a"} })
		l.restart()
		l.wait(5 * sec)
		m := l.g.Members()[0]
		timeout := func(started time.Time) Outcome {
			return l.g.Observe(time.Now(), m, Observation{Kind: ReplyTimeout, Destination: 1, Started: started})
		}
		started := time.Now()
		l.wait(sec)
		l.g.Observe(time.Now(), m, Observation{Kind: Success, Reached: true, Destination: 2})
		if out := timeout(started); out.Ask != AskNothing {
			t.Errorf("another one was answered: %+v", out)
		}
		started = time.Now().Add(1)
		l.wait(2 * sec)
		if out := timeout(started); out.Ask != AskCheck || out.Doubt != Unanswered {
			t.Errorf("no other one was answered: %+v", out)
		}
		if out := timeout(started); out.Ask != AskNothing {
			t.Errorf("asks twice: %+v", out)
		}
		l.set(errTarget, 0)
		l.c.CheckNow(m)
		synctest.Wait()
		r := m.Upstream.Report(time.Now(), &l.g.cfg.UpstreamConfig)
		if r.Failures != 1 || !r.CheckFailed || r.Circuit != Closed {
			t.Errorf("after the check failed: %+v", r)
		}
	})
}

// TestScenario23: 407 three times → one alert, no storm, others serve.
func TestScenario23(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	alerts, sent := 0, 0
	for d := time.Duration(0); d < 10*time.Minute; d += 100 * time.Millisecond {
		now := at(d)
		m, tok, ok := g.TryProbe(now, 0, nil)
		if !ok {
			tier := g.Available(now).Tiers[0].Members
			m = tier[int(d/(100*time.Millisecond))%len(tier)]
		}
		o := Observation{Kind: Success, Probe: tok}
		if m.Value == 0 {
			o.Kind = AuthFault
			sent++
		}
		for _, tr := range g.Observe(now, m, o).Transitions {
			if tr.Event() != EventAuthFailed {
				t.Errorf("at %s: %s", d, tr.Event())
			}
			alerts++
		}
	}
	if alerts != 1 {
		t.Errorf("%d alerts", alerts)
	}
	if sent != 3+10 { // probes after 10, 30, 60, 100, … 550 s
		t.Errorf("%d requests with bad credentials in 10 minutes", sent)
	}
}

// TestScenario23All: with bad credentials everywhere nobody is asked, panic or not.
func TestScenario23All(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	for i := range 3 {
		if out := groupObserve(g, i, 0, 3, Observation{Kind: AuthFault}); len(out.Transitions) != 1 {
			t.Fatalf("%+v", out)
		}
	}
	if s := g.Available(at(0)); len(s.Tiers) != 0 || !s.Panic {
		t.Errorf("%q", picks(s))
	}
}

// TestScenario24: half-open with 50 at once → one probe; a cancelled one opens the
// circuit again, and the next requests go elsewhere until that is over.
func TestScenario24(t *testing.T) {
	for range 50 {
		g := newGroup(t, 2, exactConfig())
		groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
		fifty := func(now time.Duration) (probes []Token) {
			var wg sync.WaitGroup
			tokens := make(chan Token, 50)
			for range 50 {
				wg.Go(func() {
					if m, tok, ok := g.TryProbe(at(now), 0, nil); ok {
						if m.Value != 0 {
							t.Error("probe of a healthy member")
						}
						tokens <- tok
					}
				})
			}
			wg.Wait()
			close(tokens)
			for tok := range tokens {
				probes = append(probes, tok)
			}
			return probes
		}
		probes := fifty(10 * sec)
		if len(probes) != 1 {
			t.Fatalf("%d probes", len(probes))
		}
		if n := len(fifty(10 * sec)); n != 0 {
			t.Fatalf("%d more probes", n)
		}
		groupObserve(g, 0, 15*sec, 1, Observation{Kind: Cancelled, Probe: probes[0]})
		if n := len(fifty(20*sec - 1)); n != 0 {
			t.Fatalf("%d probes at once after one that was given up after 5 s", n)
		}
		probes = fifty(20 * sec)
		if len(probes) != 1 {
			t.Fatalf("%d probes after a cancelled one", len(probes))
		}
		out := groupObserve(g, 0, 20*sec, 1, Observation{Kind: Success, Probe: probes[0]})
		if len(out.Transitions) != 1 || out.Transitions[0].Event() != EventCircuitClosed {
			t.Errorf("%+v", out)
		}
		if got := picks(g.Available(at(20 * sec))); got != "0 1" {
			t.Errorf("%q", got)
		}
	}
}
