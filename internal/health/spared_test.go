package health

import (
	"testing"
	"time"
)

// sparing returns a group of which member 0 is ejected and member 1 should be, but may
// not.
func sparing(t *testing.T, n int, kind Kind, priority ...int) *Group {
	t.Helper()
	g := newGroup(t, n, exactConfig())
	if len(priority) > 0 {
		var members []*Member
		for i, m := range g.Members() {
			members = append(members, &Member{Upstream: m.Upstream, Priority: priority[i], Value: i})
		}
		if err := g.SetMembers(members); err != nil {
			t.Fatal(err)
		}
	}
	groupObserve(g, 0, 0, 5, Observation{Kind: kind})
	groupObserve(g, 1, 0, 5, Observation{Kind: kind})
	return g
}

// lastResort is the tiers of a snapshot that are the last resort.
func lastResort(s *Snapshot) (values []any) {
	for _, tier := range s.Tiers {
		if tier.LastResort {
			for _, m := range tier.Members {
				values = append(values, m.Value)
			}
		}
	}
	return values
}

// TestSpared: what should be ejected and may not comes after everybody else, whatever
// its priority, and has one trial at a time.
func TestSpared(t *testing.T) {
	for name, g := range map[string]*Group{
		"the cap":        sparing(t, 3, ConnectFailure),
		"no connect":     sparing(t, 3, Failure),
		"a standby tier": sparing(t, 3, ConnectFailure, 0, 0, 1),
	} {
		s := g.Available(at(sec))
		if got := picks(s); got != "2 | 1" {
			t.Errorf("%s: %q", name, got)
		}
		if got := lastResort(s); len(got) != 1 || got[0] != 1 {
			t.Errorf("%s: last resort %v", name, got)
		}
		if st := g.Members()[1].Upstream.Status(); !st.InRotation() || !st.Spared {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// TestSpared_InPanic: panic does not bring it in front of those that serve.
func TestSpared_InPanic(t *testing.T) {
	cfg := exactConfig()
	cfg.PanicBelow = 1
	g := newGroup(t, 3, cfg)
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	groupObserve(g, 1, 0, 5, Observation{Kind: Failure})
	if got := picks(g.Available(at(sec))); got != "0 2 | 1 (panic)" {
		t.Errorf("%q", got)
	}
	groupObserve(g, 2, sec, 1, Observation{Kind: ConnectFailure})
	groupObserve(g, 0, sec, 1, Observation{Kind: ConnectFailure})
	if got := picks(g.Available(at(sec))); got != "1 0 2 (panic)" {
		t.Errorf("nobody is better: %q", got)
	}
}

// TestSpared_All: where all that are in rotation are spared, one that is ejected is no
// worse than they: it serves beside them, and is not left alone for ever longer while
// nobody else serves.
func TestSpared_All(t *testing.T) {
	for _, panicBelow := range []float64{0, 0.5} {
		cfg := exactConfig()
		cfg.PanicBelow = panicBelow
		g := newGroup(t, 3, cfg)
		for i := range 3 {
			groupObserve(g, i, 0, 5, Observation{Kind: ConnectFailure})
		}
		s := g.Available(at(sec))
		if got := picks(s); got != "1 2 0" || len(lastResort(s)) != 3 {
			t.Errorf("%q, last resort %v", got, lastResort(s))
		}
		for n := time.Duration(1); n < 9; n++ {
			m, tok, ok := g.TryProbe(at(n*10*sec), 0, nil)
			if !ok || m.Value != 0 || tok == 0 {
				t.Fatalf("probe %d of %v: %v", n, m, ok)
			}
			g.Observe(at(n*10*sec), m, Observation{Kind: ConnectFailure, Probe: tok})
		}
		groupObserve(g, 1, 81*sec, 1, Observation{Kind: Success})
		if got := picks(g.Available(at(81 * sec))); got != "1 | 2" {
			t.Errorf("one serves again: %q", got)
		}
		m, tok, ok := g.TryProbe(at(90*sec), 0, nil)
		if !ok {
			t.Fatal("no probe")
		}
		g.Observe(at(90*sec), m, Observation{Kind: ConnectFailure, Probe: tok})
		g.Members()[2].Upstream.breaker.tryAt = instantOf(at(time.Hour))
		for d := 90 * sec; d < 110*sec; d += sec {
			if m, _, ok := g.TryProbe(at(d), 0, nil); ok && m.Value == 0 {
				t.Errorf("probed after %s, though another one serves", d-90*sec)
			}
		}
	}
}

// TestEjected_NobodyInRotation: without panic as well, an open circuit is better than no
// upstream.
func TestEjected_NobodyInRotation(t *testing.T) {
	cfg := exactConfig()
	cfg.PanicBelow = 0
	g := NewGroup(GroupConfig{UpstreamConfig: cfg})
	if err := g.SetMembers(membersOf("deEa")); err != nil {
		t.Fatal(err)
	}
	if s := g.Available(at(0)); picks(s) != "1 2" || len(lastResort(s)) != 2 {
		t.Errorf("%q", picks(s))
	}
}

// TestSpared_TheLastOne goes on serving: there is nobody else.
func TestSpared_TheLastOne(t *testing.T) {
	g := newGroup(t, 1, exactConfig())
	groupObserve(g, 0, 0, 9, Observation{Kind: ConnectFailure})
	if got := picks(g.Available(at(sec))); got != "0" {
		t.Errorf("%q", got)
	}
	if m, _, ok := g.TryProbe(at(time.Hour), 0, nil); ok {
		t.Errorf("trial of %v, which has all requests", m.Value)
	}
}

// TestSpared_Trial: one request in each period, which grows, and a success brings it
// back, slowly.
func TestSpared_Trial(t *testing.T) {
	g := sparing(t, 3, ConnectFailure)
	due := func(d time.Duration) bool {
		g.Available(at(d))
		for {
			m, tok, ok := g.TryProbe(at(d), 0, nil)
			if !ok {
				return false
			}
			if m.Value == 1 {
				if tok != 0 {
					t.Error("a trial has a token")
				}
				return true
			}
			g.Observe(at(d), m, Observation{Kind: ConnectFailure, Probe: tok})
		}
	}
	for _, step := range []struct {
		at   time.Duration
		want bool
	}{
		{10*sec - 1, false},
		{10 * sec, true},
		{10 * sec, false},
		{30*sec - 1, false}, // it never ended
		{30 * sec, true},
		{60*sec - 1, false},
	} {
		if got := due(step.at); got != step.want {
			t.Errorf("at %s: trial %v", step.at, got)
		}
	}
	groupObserve(g, 1, 31*sec, 1, Observation{Kind: Cancelled})
	groupObserve(g, 1, 31*sec, 1, Observation{Kind: SoftFail, Destination: 1})
	if got := picks(g.Available(at(31 * sec))); got != "2 | 1" {
		t.Errorf("without a result: %q", got)
	}
	groupObserve(g, 1, 32*sec, 1, Observation{Kind: Success})
	if got := picks(g.Available(at(32 * sec))); got != "1 2" {
		t.Errorf("after a success: %q", got)
	}
	if f := g.Members()[1].Upstream.Factor(at(32*sec), g.Config()); f != leastWeight {
		t.Errorf("factor %v", f)
	}
}

// TestSpared_Causes: it is counted once each time that an ejection is withheld, by its cause.
func TestSpared_Causes(t *testing.T) {
	for name, tt := range map[string]struct {
		g    *Group
		i    int
		want [SpareCauses]uint64
	}{
		"the cap":         {sparing(t, 3, ConnectFailure), 1, [SpareCauses]uint64{SparedMaxEjected: 1}},
		"nobody else":     {sparing(t, 2, ConnectFailure), 1, [SpareCauses]uint64{SparedLast: 1}},
		"one that is out": {sparing(t, 3, ConnectFailure), 0, [SpareCauses]uint64{}},
	} {
		groupObserve(tt.g, tt.i, 2*sec, 9, Observation{Kind: ConnectFailure}) // it is spared already
		if got := tt.g.Members()[tt.i].Upstream.Report(at(3*sec), tt.g.Config()).Spares; got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
