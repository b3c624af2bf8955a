package health

import (
	"testing"
	"time"
)

// Whoever looks at a group takes no turn from those who use it, and does not count as
// one of them.
func TestPeek(t *testing.T) {
	cfg := exactConfig()
	g := newGroup(t, 3, cfg)
	if got := picks(g.Peek(at(0))); got != "0 1 2" {
		t.Errorf("at first: %s", got)
	}
	if g.used.Load() {
		t.Error("a look counts as use")
	}
	if m := g.ProbeDue(at(0), false, 0, nil); m != nil {
		t.Errorf("probe of %v due while all are well", m.Value)
	}
	groupObserve(g, 1, 0, cfg.ConsecutiveFailures, Observation{Kind: ConnectFailure})
	if got := picks(g.Peek(at(0))); got != "0 2" {
		t.Errorf("with an open circuit: %s", got)
	}
	if m := g.ProbeDue(at(0), false, 0, nil); m != nil {
		t.Errorf("probe of %v due at once", m.Value)
	}
	later := 24 * time.Hour
	for range 3 {
		if m := g.ProbeDue(at(later), false, 0, nil); m == nil || m.Value != 1 {
			t.Fatalf("probe due of %v, want 1", m)
		}
	}
	m, _, ok := g.TryProbe(at(later), 0, nil)
	if !ok || m.Value != 1 {
		t.Fatalf("the probe is not to be had any more: %v %t", m, ok)
	}
	if m := g.ProbeDue(at(later), false, 0, nil); m != nil {
		t.Error("probe due while it is under way")
	}
}
