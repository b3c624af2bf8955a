package health

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// newGroup returns a group of n members, whose Value is their index.
func newGroup(t testing.TB, n int, cfg UpstreamConfig) *Group {
	t.Helper()
	g := NewGroup(GroupConfig{UpstreamConfig: cfg})
	members := make([]*Member, n)
	for i := range members {
		members[i] = &Member{Upstream: new(Upstream), Value: i}
	}
	if err := g.SetMembers(members); err != nil {
		t.Fatal(err)
	}
	return g
}

// groupObserve observes the same n times and returns the last outcome, with the
// transitions of all.
func groupObserve(g *Group, i int, d time.Duration, n int, o Observation) (out Outcome) {
	var all []Transition
	for range n {
		out = g.Observe(at(d), g.Members()[i], o)
		all = append(all, out.Transitions...)
	}
	out.Transitions = all
	return out
}

// picks writes who may be picked, tier by tier: "0 1 | 2!" where ! is a tier of
// panic alone.
func picks(s *Snapshot) string {
	var tiers []string
	for _, tier := range s.Tiers {
		var names []string
		for _, m := range tier.Members {
			names = append(names, fmt.Sprint(m.Value))
		}
		text := strings.Join(names, " ")
		if tier.Panic {
			text += "!"
		}
		tiers = append(tiers, text)
	}
	text := strings.Join(tiers, " | ")
	if s.Panic {
		text += " (panic)"
	}
	return text
}

// TestSurvey has the rule of who may be picked. Each letter is a member: k healthy,
// e ejected, E ejected with a failed connect, d down, a refuses credentials, D
// drained, f in rotation with a failed connect, c in rotation with a failed check;
// a digit in front is the priority.
func TestSurvey(t *testing.T) {
	for _, tc := range []struct{ members, want string }{
		{"", ""},
		{"k", "0"},
		{"kkk", "0 1 2"},
		{"kek", "0 2"},
		{"ek", "1"}, // 50% is not below 50%
		{"kD", "0"},
		{"D", ""},
		{"kdd", "0 (panic)"},
		{"ddd", " (panic)"},
		{"kde", "0 2 (panic)"},
		{"kdE", "0 (panic)"},        // while another is up
		{"ddE", "2! (panic)"},       // nobody is
		{"dEE", "1 2! (panic)"},     //
		{"dEEe", "3! (panic)"},      //
		{"kae", "0 2 (panic)"},      // refused credentials count, and stay out
		{"aaa", " (panic)"},         //
		{"kDDDDD", "0"},             // not panic: one ready, one in rotation
		{"keDDD", "0"},              //
		{"fk", "0 1"},               // matters in panic only
		{"fkddd", "1 (panic)"},      //
		{"ckddd", "1 (panic)"},      //
		{"fddd", "0 (panic)"},       //
		{"feddd", "1! (panic)"},     // the ejected one is better than the one that does not connect
		{"k1k", "0 | 1"},            //
		{"1k0k1k", "1 | 0 2"},       //
		{"e1k", "1"},                //
		{"edd1k", "3 | 0! (panic)"}, // a tier of panic alone comes last
		{"edk1kdd", "0 2 | 3 (panic)"},
		{"edd1kd1e", "3 5 | 0! (panic)"},
	} {
		g := NewGroup(GroupConfig{UpstreamConfig: exactConfig()})
		if err := g.SetMembers(membersOf(tc.members)); err != nil {
			t.Fatal(err)
		}
		if got := picks(g.Available(at(sec))); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.members, got, tc.want)
		}
	}
}

func membersOf(text string) (members []*Member) {
	cfg := exactConfig()
	priority := 0
	for _, r := range text {
		u := new(Upstream)
		switch r {
		case '0', '1', '2':
			priority = int(r - '0')
			continue
		case 'e':
			repeat(u, 0, 5, Observation{Kind: Failure})
		case 'E':
			repeat(u, 0, 5, Observation{Kind: ConnectFailure})
		case 'a':
			repeat(u, 0, 3, Observation{Kind: AuthFault})
		case 'd':
			u.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Failed})
		case 'D':
			u.SetAdmin(Drain)
		case 'f':
			observe(u, 0, Observation{Kind: ConnectFailure})
		case 'c':
			u.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Passed})
			u.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Failed})
		}
		members = append(members, &Member{Upstream: u, Priority: priority, Value: len(members)})
	}
	return members
}

// TestPanicLetsAFailedConnectBackIn: nothing but traffic would ever clear it.
func TestPanicLetsAFailedConnectBackIn(t *testing.T) {
	g := NewGroup(GroupConfig{UpstreamConfig: exactConfig()})
	if err := g.SetMembers(membersOf("fkddd")); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[time.Duration]string{0: "1 (panic)", 10*sec - 1: "1 (panic)"} {
		if got := picks(g.Available(at(d))); got != want {
			t.Errorf("at %s: %q", d, got)
		}
	}
	if got := picks(g.Available(at(10 * sec))); got != "0 1 (panic)" {
		t.Errorf("after open_for: %q", got)
	}
	groupObserve(g, 0, 11*sec, 1, Observation{Kind: ConnectFailure})
	if got := picks(g.Available(at(11 * sec))); got != "1 (panic)" {
		t.Errorf("failed again: %q", got)
	}
	groupObserve(g, 0, 12*sec, 1, Observation{Kind: Success})
	if got := picks(g.Available(at(12 * sec))); got != "0 1 (panic)" {
		t.Errorf("connected: %q", got)
	}
}

// TestEjectionCap: how many of n members are ejected when all fail.
func TestEjectionCap(t *testing.T) {
	for _, tc := range []struct {
		n    int
		max  float64
		want int
	}{
		{1, 0.5, 0},
		{1, 1, 0}, // never the last one
		{2, 0.5, 1},
		{3, 0.5, 1},
		{4, 0.5, 2},
		{5, 0.5, 2},
		{10, 0.5, 5},
		{10, 0.29, 2},
		{100, 0.29, 29},
		{10, 0, 0},
		{10, 1, 9},
		{2, 0.49, 0},
	} {
		cfg := exactConfig()
		cfg.MaxEjected, cfg.PanicBelow = tc.max, 0
		g := newGroup(t, tc.n, cfg)
		for round := range 3 {
			for i := range tc.n {
				groupObserve(g, i, time.Duration(round)*2*sec, 5, Observation{Kind: ConnectFailure})
			}
		}
		if s := g.Available(at(6 * sec)); tc.n-s.InRotation != tc.want {
			t.Errorf("%d of %d ejected, at most %v: want %d", tc.n-s.InRotation, tc.n, tc.max, tc.want)
		}
	}
}

// TestCapAsksAgain: a member that the cap kept in goes with its next failure, a
// second later, when the cap allows it.
func TestCapAsksAgain(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	if out := groupObserve(g, 1, 0, 9, Observation{Kind: Failure}); out.Transitions != nil {
		t.Fatal("the last one was ejected")
	}
	_, tok, ok := g.TryProbe(at(10*sec), 0, nil)
	if !ok {
		t.Fatal("no probe")
	}
	groupObserve(g, 0, 10*sec, 1, Observation{Kind: Success, Probe: tok})
	out := groupObserve(g, 1, 10*sec, 1, Observation{Kind: Failure})
	if len(out.Transitions) != 1 || out.Transitions[0].Event() != EventCircuitOpen {
		t.Errorf("not ejected though the cap allows it: %+v", out)
	}
}

// TestLastOneCountsWhatChecksFound: with the other one down, a member is the last.
func TestLastOneCountsWhatChecksFound(t *testing.T) {
	cfg := exactConfig()
	g := newGroup(t, 2, cfg)
	g.Members()[0].Upstream.ObserveCheck(at(0), &cfg, 2, 3, CheckResult{Outcome: Failed})
	if out := groupObserve(g, 1, 0, 20, Observation{Kind: Failure}); out.Transitions != nil {
		t.Error("the last one was ejected")
	}
}

// TestCapOfEveryGroup: an upstream in two groups needs the consent of both.
func TestCapOfEveryGroup(t *testing.T) {
	a := newGroup(t, 4, exactConfig())
	b := NewGroup(GroupConfig{UpstreamConfig: exactConfig()})
	if err := b.SetMembers(a.Members()[:2]); err != nil {
		t.Fatal(err)
	}
	groupObserve(a, 0, 0, 5, Observation{Kind: Failure})
	if out := groupObserve(a, 1, 0, 5, Observation{Kind: Failure}); out.Transitions != nil {
		t.Error("both members of the smaller group are ejected")
	}
	if s := b.Available(at(0)); picks(s) != "1 0" || len(lastResort(s)) != 2 {
		t.Errorf("the other group does not know: %q", picks(s))
	}
	b.Close()
	if out := groupObserve(a, 1, sec, 1, Observation{Kind: Failure}); out.Transitions == nil {
		t.Error("a closed group has a say")
	}
	if len(b.Members()) != 0 || b.SetMembers(a.Members()) == nil {
		t.Error("a closed group has members")
	}
}

// TestConcurrentEjection: members that fail at the same time do not exceed the cap
// together.
func TestConcurrentEjection(t *testing.T) {
	for range 300 {
		g := newGroup(t, 8, exactConfig())
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for i := range 8 {
			groupObserve(g, i, 0, 4, Observation{Kind: Failure})
			wg.Go(func() {
				<-begin
				groupObserve(g, i, 0, 1, Observation{Kind: Failure})
			})
		}
		close(begin)
		wg.Wait()
		if s := g.Available(at(0)); s.InRotation != 4 {
			t.Fatalf("%d of 8 in rotation", s.InRotation)
		}
	}
}

func TestMembership(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure})
	old := g.Members()
	// One goes, one comes; the others keep their state.
	next := []*Member{old[0], {Upstream: old[1].Upstream, Priority: 1, Value: "1'"}, {Upstream: new(Upstream), Value: 3}}
	if err := g.SetMembers(next); err != nil {
		t.Fatal(err)
	}
	if got := picks(g.Available(at(0))); got != "3 | 1'" {
		t.Errorf("%q", got)
	}
	g.Observe(at(0), old[2], Observation{Kind: Success}) // may still be observed
	if n := len(old[2].Upstream.groups); n != 0 {
		t.Errorf("a member that is gone knows %d groups", n)
	}
	for _, bad := range [][]*Member{{nil}, {{}}, {old[0], old[0]}} {
		if err := g.SetMembers(bad); err == nil {
			t.Errorf("accepted %v", bad)
		}
	}
	if got := picks(g.Available(at(0))); got != "3 | 1'" {
		t.Errorf("after bad input: %q", got)
	}
	// Nobody is shown the members of before, not even while others look.
	if err := g.SetMembers(old[:2]); err != nil || g.snapshot.Load() != nil {
		t.Errorf("%v; the old snapshot is still there", err)
	}
	// With the healthy ones gone, the ejected one is better than nothing.
	if err := g.SetMembers(old[:1]); err != nil {
		t.Fatal(err)
	}
	if got := picks(g.Available(at(0))); got != "0! (panic)" {
		t.Errorf("%q", got)
	}
}

// TestProbesOfTiersInUse: a standby tier is not probed while the one before it
// serves; one before it always is.
func TestProbesOfTiersInUse(t *testing.T) {
	for members, want := range map[string]any{
		"kk1ek": nil, "kk1k0e": 3, "dd1ek": 2, "ek": 0, "dE": 1, "kk1a0a": 3,
	} {
		g := NewGroup(GroupConfig{UpstreamConfig: exactConfig()})
		if err := g.SetMembers(membersOf(members)); err != nil {
			t.Fatal(err)
		}
		if _, _, ok := g.TryProbe(at(10*sec-1), 0, nil); ok {
			t.Errorf("%s: probed before it is due", members)
		}
		m, tok, ok := g.TryProbe(at(10*sec), 0, nil)
		switch {
		case ok != (want != nil), ok && m.Value != want:
			t.Errorf("%s: probe %v of %v, want %v", members, ok, m, want)
		case ok && tok == 0:
			t.Errorf("%s: no token", members)
		}
	}
}

// TestProbeOfEachMember: each open circuit gets its own probe, and a failed one
// does not keep the others from theirs.
func TestProbeOfEachMember(t *testing.T) {
	g := newGroup(t, 6, exactConfig())
	for i := range 3 {
		groupObserve(g, i, time.Duration(i)*sec, 5, Observation{Kind: Failure})
	}
	probed := ""
	for d := 10 * sec; d <= 12*sec; d += sec {
		m, tok, ok := g.TryProbe(at(d), 0, nil)
		if !ok {
			t.Fatalf("no probe at %s", d)
		}
		probed += fmt.Sprint(m.Value)
		g.Observe(at(d), m, Observation{Kind: Failure, Probe: tok})
		if _, _, ok := g.TryProbe(at(d), 0, nil); ok {
			t.Errorf("another probe at %s", d)
		}
	}
	if probed != "012" {
		t.Errorf("probed %s", probed)
	}
	if _, _, ok := g.TryProbe(at(30*sec), 0, nil); !ok {
		t.Error("no second probe of the first")
	}
}

// TestOverdueProbe: a request that is lost with the probe takes the turn only after
// as long again.
func TestOverdueProbe(t *testing.T) {
	g := newGroup(t, 4, exactConfig())
	for i := range 2 {
		groupObserve(g, i, time.Duration(i)*5*sec, 5, Observation{Kind: Failure})
	}
	for _, tc := range []struct {
		at   time.Duration
		want any // nil for none
	}{{10 * sec, nil}, {20*sec - 1, nil}, {20 * sec, 0}, {25*sec - 1, nil}} {
		if m := g.ProbeDue(at(tc.at), true, 0, nil); (m == nil) != (tc.want == nil) || m != nil && m.Value != tc.want {
			t.Errorf("%s: due of %v, want %v", tc.at, m, tc.want)
		}
		if m, _, ok := g.TryOverdueProbe(at(tc.at), 0, nil); ok != (tc.want != nil) || ok && m.Value != tc.want {
			t.Errorf("%s: probe of %v, want %v", tc.at, m, tc.want)
		}
	}
	if m, _, ok := g.TryProbe(at(25*sec-1), 0, nil); !ok || m.Value != 1 {
		t.Error("the other one waits as long for those that can be repeated")
	}
}

// TestConcurrentPicks: picks, probes and observations at once; at most one probe of
// a member is under way.
func TestConcurrentPicks(t *testing.T) {
	g := newGroup(t, 4, exactConfig())
	var probing [4]atomic.Int32
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				now := at(time.Duration(i) * 50 * time.Millisecond)
				if m, tok, ok := g.TryProbe(now, 0, nil); ok {
					n := m.Value.(int)
					if probing[n].Add(1) != 1 {
						t.Error("two probes at once")
					}
					probing[n].Add(-1)
					g.Observe(now, m, Observation{Kind: []Kind{Failure, Cancelled, Success}[i%3], Probe: tok})
				}
				s := g.Available(now)
				if len(s.Tiers) == 0 {
					t.Error("nobody to pick")
					return
				}
				m := s.Tiers[0].Members[(i+w)%len(s.Tiers[0].Members)]
				kind := Success
				if m.Value.(int)%2 == 0 || i%1000 < 100 {
					kind = ConnectFailure
				}
				g.Observe(now, m, Observation{Kind: kind, Destination: uint64(i%50 + 1)})
			}
		})
	}
	wg.Wait()
}
