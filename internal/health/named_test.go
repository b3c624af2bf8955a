package health

import (
	"fmt"
	"testing"
	"time"
)

// named is an answer of an upstream that says that the nth host cannot be reached.
func named(n int) Observation {
	return Observation{Kind: Success, Named: true, Destination: Destination(fmt.Sprintf("host%d.example:443", n))}
}

// reached is a success for the nth host.
func reached(n int) Observation {
	return Observation{Kind: Success, Reached: true, Destination: named(n).Destination}
}

// TestNamed_DeadUplink: an upstream that says of all hosts that they cannot be reached is
// ejected where others reach them, and not brought back by saying it again.
func TestNamed_DeadUplink(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	m := g.Members()
	dead := m[0]
	for n := range suspects {
		g.Observe(at(sec), dead, named(n))
	}
	if s := dead.Upstream.Status(); s.Circuit != Closed {
		t.Fatalf("nobody has reached the hosts, and its circuit is %s", s.Circuit)
	}
	var reason Reason
	for n := range witnesses {
		for _, tr := range g.Observe(at(sec), m[1], reached(n)).Transitions {
			reason = tr.Reason
		}
	}
	if s := dead.Upstream.Status(); s.Circuit != Open || reason != ReasonElsewhere {
		t.Fatalf("%s, for %q", s.Circuit, reason)
	}
	_, tok, ok := g.TryProbe(at(11*sec), 0, nil)
	if !ok {
		t.Fatal("no probe")
	}
	o := named(100)
	o.Probe = tok
	g.Observe(at(11*sec), dead, o)
	if s := dead.Upstream.Status(); s.Circuit != Open {
		t.Errorf("it has said it again, and its circuit is %s", s.Circuit)
	}
	_, tok, ok = g.TryProbe(at(21*sec), 0, nil)
	if !ok {
		t.Fatal("no second probe")
	}
	o = reached(101)
	o.Probe = tok
	g.Observe(at(21*sec), dead, o)
	if s := dead.Upstream.Status(); s.Circuit != Closed {
		t.Errorf("it has reached a host, and its circuit is %s", s.Circuit)
	}
}

// TestNamed_DeadDestinations: hosts that nobody reaches take nobody out, and nor do those of
// an upstream that reaches others between.
func TestNamed_DeadDestinations(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	m := g.Members()
	for n := range 2 * suspects {
		for _, member := range m {
			g.Observe(at(sec), member, named(n))
		}
	}
	for n := range 2 * suspects {
		g.Observe(at(2*sec), m[0], named(n))
		g.Observe(at(2*sec), m[1], reached(n))
		g.Observe(at(2*sec), m[0], reached(100))
	}
	for i, member := range m[:2] {
		if s := member.Upstream.Status(); s.Circuit != Closed {
			t.Errorf("member %d: %s", i, s.Circuit)
		}
	}
}

// TestNamed_IsAnAnswer: it forgives failures in a row, and closes a circuit that was opened
// by other failures.
func TestNamed_IsAnAnswer(t *testing.T) {
	u := new(Upstream)
	repeat(u, 0, 4, Observation{Kind: Failure})
	observe(u, sec, named(0))
	repeat(u, sec, 4, Observation{Kind: Failure})
	if s := u.Status(); s.Circuit != Closed {
		t.Errorf("failures in a row with an answer between: %s", s.Circuit)
	}
	repeat(u, sec, 1, Observation{Kind: Failure})
	o := named(1)
	o.Probe = probeAt(t, u, 11*sec)
	if tr := observe(u, 11*sec, o); tr.Event() != EventCircuitClosed {
		t.Errorf("the probe was answered: %+v", tr)
	}
}

// TestNamed_Spared: one that should be out for suspicion, and may not, stays the last
// resort while all that it says is that hosts cannot be reached.
func TestNamed_Spared(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	m := g.Members()
	groupObserve(g, 2, sec, 5, Observation{Kind: ConnectFailure})
	for n := range suspects {
		g.Observe(at(sec), m[0], named(n))
	}
	for n := range witnesses {
		g.Observe(at(sec), m[1], reached(n))
	}
	if s := m[0].Upstream.Status(); !s.Spared {
		t.Fatalf("%+v", s)
	}
	g.Observe(at(2*sec), m[0], named(7))
	if s := m[0].Upstream.Status(); !s.Spared {
		t.Error("it takes part again")
	}
	g.Observe(at(3*sec), m[0], reached(8))
	if s := m[0].Upstream.Status(); s.Spared {
		t.Error("it has reached a host, and is the last resort still")
	}
}

// TestNamed_Suspect: it asks for a check, as answers without detail do.
func TestNamed_Suspect(t *testing.T) {
	u, cfg := new(Upstream), exactConfig()
	for n := range suspects {
		_, doubt := u.Observe(at(time.Duration(n)*ms), &cfg, named(n))
		if want := map[bool]Doubt{true: Suspect}[n == suspects-1]; doubt != want {
			t.Errorf("after %d hosts: doubt %d", n+1, doubt)
		}
	}
}

// TestNamed_OneSite: an upstream that reaches others is not taken out by hosts that say no
// to it and yes to others, however many there are of them.
func TestNamed_OneSite(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	m := g.Members()
	g.Observe(at(sec), m[0], reached(1000))
	for n := range 10 * suspects {
		g.Observe(at(2*sec), m[0], named(n))
		g.Observe(at(2*sec), m[1], reached(n))
	}
	if s := m[0].Upstream.Status(); s.Circuit != Closed {
		t.Errorf("it has reached another host a second before, and its circuit is %s", s.Circuit)
	}
	later := at(2*sec + 2*suspicionWindow) // and nothing since
	for n := range suspects {
		g.Observe(later, m[0], named(n))
		g.Observe(later, m[1], reached(n))
	}
	if s := m[0].Upstream.Status(); s.Circuit != Open {
		t.Errorf("it has reached nothing for a while, and its circuit is %s", s.Circuit)
	}
}

// TestNamed_Relayed: what an origin may have written takes nobody out.
func TestNamed_Relayed(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	m := g.Members()
	for n := range 10 * suspects {
		o := named(n)
		o.Relayed = true
		g.Observe(at(sec), m[0], o)
		g.Observe(at(sec), m[1], reached(n))
	}
	if s := m[0].Upstream.Status(); s.Circuit != Closed {
		t.Errorf("its circuit is %s", s.Circuit)
	}
}
