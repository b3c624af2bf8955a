package health

import (
	"testing"
	"time"
)

// What a success has forgiven is taken back no more where it turns out to have been the
// doing of a host: what came after it counts.
func TestForgive_AfterASuccess(t *testing.T) {
	evil, good := Destination("evil.example:80"), Destination("good.example:80")
	charge := Observation{Kind: Failure, Relayed: true, Alone: true, Destination: evil}
	success := Observation{Kind: Success, Reached: true, Destination: good}
	connect := Observation{Kind: ConnectFailure, Destination: good}
	for name, before := range map[string][]Observation{
		"an idle member": {charge, charge, charge, charge, success},
		"a busy member":  {success, {Kind: Failure, Relayed: true, Destination: evil}, success},
	} {
		for connects, want := range map[int]State{4: Closed, 5: Open} {
			g := newGroup(t, 3, exactConfig())
			m := g.Members()
			now := at(0)
			for _, o := range before {
				g.Observe(now, m[0], o)
			}
			for range connects {
				g.Observe(now, m[0], connect)
			}
			g.Observe(now, m[1], Observation{Kind: Failure, Relayed: true, Destination: evil})
			if s := m[0].Upstream.Status(); s.Circuit != want {
				t.Errorf("%s, %d failed connects: %s", name, connects, s.Circuit)
			}
			if connects == 4 {
				g.Observe(now, m[0], connect)
				if s := m[0].Upstream.Status(); s.Circuit != Open {
					t.Errorf("%s: the fifth failed connect in a row leaves it %s", name, s.Circuit)
				}
			}
		}
	}
}

// Charges of before the circuit closed are no part of what was counted since.
func TestForgive_AfterTheCircuitClosed(t *testing.T) {
	cfg := exactConfig()
	cfg.ConsecutiveFailures, cfg.MinSamples = 0, 4
	cfg.OpenFor = time.Second
	g := newGroup(t, 3, cfg)
	m := g.Members()
	evil := Destination("evil.example:80")
	for range 4 {
		g.Observe(at(0), m[0], Observation{Kind: Failure, Relayed: true, Alone: true, Destination: evil})
	}
	_, tok, ok := g.TryProbe(at(sec), 0, nil)
	if !ok {
		t.Fatal("no probe")
	}
	g.Observe(at(sec), m[0], Observation{Kind: Success, Probe: tok})
	for range 3 {
		g.Observe(at(2*sec), m[0], Observation{Kind: Failure})
	}
	g.Observe(at(2*sec), m[1], Observation{Kind: Failure, Relayed: true, Destination: evil})
	g.Observe(at(2*sec), m[0], Observation{Kind: Failure})
	if s := m[0].Upstream.Status(); s.Circuit != Open {
		t.Errorf("four failures since it has closed: %s", s.Circuit)
	}
}
