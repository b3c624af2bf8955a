package health

import (
	"slices"
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

	runOf    []time.Time   // failures since the last success or opening
	openings int           // since the last success
	openedAt time.Time     // of the last opening, or unsettled probe
	least    time.Duration // for which it is open since then
	exactly  bool          // for least, and not for the period
	shut     bool          // open or half-open
	probing  bool          // nothing has ended the half-open state
	probedAt time.Time     // when the last probe was sent
	turn     time.Duration // that it has
	last     Token         // of it, not told yet; zero: told
	before   []Token       // of probes before it whose result counts
	tokens   []Token       // of probes whose result does not count any more
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
	m.openedAt, m.least, m.exactly = m.now, 0, false
	m.runOf, m.shut, m.probing = nil, true, false
	m.forget()
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
	turn := time.Duration(rapid.IntRange(1, 30).Draw(t, "turn")) * time.Second
	if shut := m.c.Shut(m.now); (shut > 0) != (m.shut && !m.takesProbe()) {
		t.Fatalf("shut for %s", shut)
	}
	ok, probe, wait := m.c.Allow(m.now, turn)
	switch {
	case !m.shut:
		if !ok || probe != 0 || wait != 0 {
			t.Fatalf("closed, but Allow says %v, %v, %s", ok, probe, wait)
		}
	case m.probing && m.now.Sub(m.probedAt) < m.turn:
		if ok || probe != 0 || wait <= 0 {
			t.Fatalf("a probe is under way, but Allow says %v, %v, %s", ok, probe, wait)
		}
	case m.probing:
		if !ok || probe == 0 || probe == m.last || slices.Contains(m.tokens, probe) || slices.Contains(m.before, probe) {
			t.Fatalf("the turn of the probe is over, but Allow says %v, %v, %s", ok, probe, wait)
		}
		m.sent(probe, turn)
	default:
		d := max(m.period(m.openings), m.least)
		if m.exactly {
			d = m.least
		}
		left := m.openedAt.Add(d).Sub(m.now)
		switch {
		case ok != (probe != 0) || slices.Contains(m.tokens, probe):
			t.Fatalf("open, but Allow says %v, %v, %s", ok, probe, wait)
		case ok && left > time.Microsecond:
			t.Fatalf("a probe %s before the end of the open period", left)
		case !ok && (left < -time.Microsecond || !about(wait, left)):
			t.Fatalf("told to wait %s instead of %s", wait, left)
		}
		if ok {
			m.sent(probe, turn)
		}
	}
}

// takesProbe reports whether the next request is the probe.
func (m *circuitModel) takesProbe() bool {
	if m.probing {
		return m.now.Sub(m.probedAt) >= m.turn
	}
	return !m.now.Before(m.c.until) // which is compared with the model in allow
}

func (m *circuitModel) sent(probe Token, turn time.Duration) {
	if m.last != 0 {
		m.before = append(m.before, m.last)
	}
	m.probing, m.probedAt, m.turn, m.last = true, m.now, turn, probe
}

func (m *circuitModel) fail(t *rapid.T) {
	opens := false
	if !m.shut {
		m.runOf = append(m.runOf, m.now)
		opens = m.inWindow() >= m.cfg.Failures
	}
	m.tellFailure(t, 0, opens)
}

// forget makes all probes under way ones whose end does not matter any more.
func (m *circuitModel) forget() {
	if m.last != 0 {
		m.tokens, m.last = append(m.tokens, m.last), 0
	}
	m.tokens, m.before = append(m.tokens, m.before...), nil
}

func (m *circuitModel) failProbe(t *rapid.T) {
	if m.last == 0 {
		t.Skip("no probe under way")
	}
	probe := m.last
	m.last = 0
	m.tellFailure(t, probe, true)
}

// failBefore: a probe that has had its turn.
func (m *circuitModel) failBefore(t *rapid.T) {
	if len(m.before) == 0 {
		t.Skip("no other probe under way")
	}
	probe := m.before[0]
	m.before = m.before[1:]
	m.tellFailure(t, probe, true)
}

// failOld: a probe of before counts like any other request.
func (m *circuitModel) failOld(t *rapid.T) {
	probe, opens := m.drawOld(t), false
	if !m.shut {
		m.runOf = append(m.runOf, m.now)
		opens = m.inWindow() >= m.cfg.Failures
	}
	m.tellFailure(t, probe, opens)
}

func (m *circuitModel) drawOld(t *rapid.T) Token {
	if len(m.tokens) == 0 {
		t.Skip("no old probe")
	}
	i := rapid.IntRange(0, len(m.tokens)-1).Draw(t, "old probe")
	probe := m.tokens[i]
	m.tokens = slices.Delete(m.tokens, i, i+1)
	return probe
}

func (m *circuitModel) tellFailure(t *rapid.T, probe Token, opens bool) {
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
	if rapid.Bool().Draw(t, "probe still under way") {
		m.forget()
	}
	m.tokens, m.before = append(m.tokens, m.before...), nil
	m.runOf, m.openings, m.shut, m.probing, m.last = nil, 0, false, false, 0
}

func (m *circuitModel) unsettled(t *rapid.T) {
	if m.last == 0 {
		t.Skip("no probe under way")
	}
	waited := min(m.now.Sub(m.probedAt), m.turn)
	how := rapid.SampledFrom([]string{"no result", "client left", "not sent"}).Draw(t, "how")
	switch how {
	case "no result":
		m.c.Unsettled(m.now, m.last)
	case "client left":
		m.c.Left(m.now, m.last)
	case "not sent":
		m.c.GiveBack(m.now, m.last)
		waited = 0
	}
	if m.last = 0; m.probing {
		m.probing, m.openedAt, m.least, m.exactly = false, m.now, waited, how != "no result"
	}
}

func (m *circuitModel) unsettledOld(t *rapid.T) {
	old := m.drawOld(t)
	rapid.SampledFrom([]func(time.Time, Token){m.c.Unsettled, m.c.Left, m.c.GiveBack}).Draw(t, "how")(m.now, old)
}

func (m *circuitModel) unsettledBefore(t *rapid.T) {
	if len(m.before) == 0 {
		t.Skip("no other probe under way")
	}
	m.c.Unsettled(m.now, m.before[0])
	m.before = m.before[1:]
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

// TestCircuitModel: at most one probe in a turn; opens when and only when enough
// failures in a row fall within the window; open periods grow by 1.6 up to the
// cap, and start again after a success; a probe that ends without a result opens it again
// without growth, and one that has none in its turn has another one beside it.
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
			"failOld":   m.failOld, "failBefore": m.failBefore,
			"succeed":   m.succeed,
			"unsettled": m.unsettled, "unsettledOld": m.unsettledOld, "unsettledBefore": m.unsettledBefore,
			"": m.check,
		})
	})
}
