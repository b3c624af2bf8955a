package health

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// circuitModel says in other words than the circuit what it must do: it keeps
// the whole history instead of a summary.
type circuitModel struct {
	c   Circuit
	cfg CircuitConfig
	now time.Time

	runOf    []time.Time // failures since the last success or opening
	openings int         // since the last success
	openedAt time.Time   // of the last opening
	turnBack time.Time   // when a probe was cancelled since; zero for not
	shut     bool        // open or half-open
	probing  bool        // a probe is under way
	orphan   bool        // a probe is under way whose circuit has been closed
}

// period is how long the nth open period is.
func (m *circuitModel) period(n int) time.Duration {
	d := m.cfg.OpenFor
	for range n - 1 {
		d = min(d*8/5, m.cfg.MaxOpenFor)
	}
	return d
}

// inWindow counts the failures of the run that fall within the window.
func (m *circuitModel) inWindow() (n int) {
	for _, f := range m.runOf {
		if m.now.Sub(f) <= m.cfg.Window {
			n++
		}
	}
	return n
}

func (m *circuitModel) opened() {
	m.openings++
	m.openedAt, m.turnBack = m.now, time.Time{}
	m.runOf, m.shut, m.probing = nil, true, false
}

// about allows for the rounding of the growth.
func about(a, b time.Duration) bool { return (a - b).Abs() < time.Microsecond }

func (m *circuitModel) pass(t *rapid.T) {
	// Some steps end exactly where an open period or a window does.
	switch {
	case m.shut && !m.probing && rapid.Bool().Draw(t, "to the end"):
		if end := m.c.until; end.After(m.now) {
			m.now = end
		}
	case len(m.runOf) > 0 && rapid.Bool().Draw(t, "to the edge of the window"):
		if edge := m.runOf[0].Add(m.cfg.Window); edge.After(m.now) {
			m.now = edge
		}
	default:
		m.now = m.now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
	}
}

func (m *circuitModel) allow(t *rapid.T) {
	ok, probe, wait := m.c.Allow(m.now)
	switch {
	case !m.shut:
		if !ok || probe || wait != 0 {
			t.Fatalf("closed, but Allow says %v, %v, %s", ok, probe, wait)
		}
	case m.probing:
		if ok || probe || wait <= 0 {
			t.Fatalf("a probe is under way, but Allow says %v, %v, %s", ok, probe, wait)
		}
	default:
		left := m.openedAt.Add(m.period(m.openings)).Sub(m.now)
		if !m.turnBack.IsZero() {
			left = 0
		}
		switch {
		case ok != probe:
			t.Fatalf("open, but Allow says %v, %v, %s", ok, probe, wait)
		case ok && left > time.Microsecond:
			t.Fatalf("a probe %s before the end of the open period", left)
		case !ok && (left < -time.Microsecond || !about(wait, left)):
			t.Fatalf("told to wait %s instead of %s", wait, left)
		}
		m.probing = probe
	}
}

func (m *circuitModel) fail(t *rapid.T) {
	opens := false
	if !m.shut {
		m.runOf = append(m.runOf, m.now)
		opens = m.inWindow() >= m.cfg.Failures
	}
	m.tellFailure(t, false, opens)
}

func (m *circuitModel) failProbe(t *rapid.T) {
	switch {
	case m.probing:
		m.tellFailure(t, true, true)
	case m.orphan && !m.shut:
		m.orphan = false
		m.runOf = append(m.runOf, m.now)
		m.tellFailure(t, true, m.inWindow() >= m.cfg.Failures)
	default:
		t.Skip("no probe under way")
	}
}

func (m *circuitModel) tellFailure(t *rapid.T, probe, opens bool) {
	if changed := m.c.Failure(m.now, probe, m.cfg); changed != opens {
		t.Fatalf("Failure (probe: %v) says changed %v, want %v", probe, changed, opens)
	}
	if opens {
		m.opened()
	}
}

func (m *circuitModel) succeed(t *rapid.T) {
	if changed := m.c.Success(); changed != m.shut {
		t.Fatalf("Success says changed %v, want %v", changed, m.shut)
	}
	// Whether it was the probe that succeeded is drawn: the circuit is not told.
	m.orphan = m.probing && rapid.Bool().Draw(t, "probe still under way")
	m.runOf, m.openings, m.shut, m.probing = nil, 0, false, false
}

func (m *circuitModel) cancel(t *rapid.T) {
	if !m.probing {
		t.Skip("no probe under way")
	}
	m.c.Cancel(m.now)
	m.turnBack, m.probing = m.now, false
}

func (m *circuitModel) check(t *rapid.T) {
	want := Closed
	switch {
	case m.probing:
		want = HalfOpen
	case m.shut:
		want = Open
	}
	if m.c.State() != want {
		t.Fatalf("is %s, want %s", m.c.State(), want)
	}
	if len(m.c.recent) >= m.cfg.Failures {
		t.Fatalf("remembers %d failures, %d open it", len(m.c.recent), m.cfg.Failures)
	}
}

// TestCircuitModel: at most one probe at a time; opens when and only when enough
// failures in a row fall within the window; open periods grow by 1.6 up to the
// cap, and start again after a success; Cancel gives the turn back.
func TestCircuitModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		openFor := rapid.IntRange(1, 5).Draw(t, "openFor")
		m := &circuitModel{now: t0, cfg: CircuitConfig{
			Failures:   rapid.IntRange(1, 5).Draw(t, "failures"),
			Window:     time.Duration(rapid.IntRange(1, 20).Draw(t, "window")) * time.Second,
			OpenFor:    time.Duration(openFor) * time.Second,
			MaxOpenFor: time.Duration(rapid.IntRange(openFor, 30).Draw(t, "maxOpenFor")) * time.Second,
		}}
		t.Repeat(map[string]func(*rapid.T){
			"pass":  m.pass,
			"allow": m.allow, "allow again": m.allow,
			"fail": m.fail, "fail again": m.fail,
			"failProbe": m.failProbe,
			"succeed":   m.succeed,
			"cancel":    m.cancel,
			"":          m.check,
		})
	})
}
