package health

import (
	"fmt"
	"testing"
	"time"
)

// hungUp is an exchange that ended without an answer.
func hungUp(destination string) Observation {
	return Observation{Kind: Failure, Relayed: true, Destination: Destination(destination)}
}

// TestHangUps: a destination that hangs up on all members takes none out that has
// answered for another one; a member that hangs up where others answer goes.
func TestHangUps(t *testing.T) {
	success := Observation{Kind: Success, Reached: true, Destination: Destination("good.example:80")}
	for _, tc := range []struct {
		name  string
		run   func(g *Group, o func(i int, d time.Duration, n int, o Observation))
		picks string
	}{
		{"a destination, one after the other", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for range 50 {
				for i := range 3 {
					o(i, sec, 1, hungUp("bad.example:80"))
				}
			}
		}, "0 1 2"},
		{"many destinations, each first through the same", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 50 {
				bad := hungUp(fmt.Sprintf("bad%d.example:80", d))
				o(0, sec, 1, bad)
				o(1, sec, 1, bad)
			}
		}, "0 1 2"},
		{"many destinations, of which another says no more than that", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 50 {
				bad := hungUp(fmt.Sprintf("bad%d.example:80", d))
				o(0, sec, 1, bad)
				o(1, sec, 1, Observation{Kind: SoftFail, Destination: bad.Destination})
			}
		}, "0 1 2"},
		{"a destination, mostly through one", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			o(0, sec, 1, hungUp("bad.example:80"))
			o(1, sec, 1, hungUp("bad.example:80"))
			o(0, sec, 50, hungUp("bad.example:80"))
		}, "0 1 2"},
		{"one that nobody else is asked for", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 50 {
				bad := hungUp(fmt.Sprintf("bad.example:%d", d+1))
				bad.Alone = true
				o(0, sec, 1, bad)
			}
		}, "0 1 2"},
		{"many of them, and nothing else is answered", func(g *Group, o func(int, time.Duration, int, Observation)) {
			o(1, g.cfg.Window+1, 1, success)
			o(2, g.cfg.Window+1, 1, success)
			bad := hungUp("bad.example:80")
			bad.Alone = true
			o(0, g.cfg.Window+1, 5, bad)
		}, "1 2"},
		{"ports of a host, each first through the same", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 50 {
				o(d&1, sec, 1, hungUp(fmt.Sprintf("bad.example:%d", d+1)))
			}
		}, "0 1 2"},
		{"a member that refuses credentials to CONNECT", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			refused := hungUp("good.example:443")
			refused.Kind, refused.Relayed = AuthFault, false
			refused.Destination = 0 // with which they have nothing to do
			o(0, sec, authFaults, refused)
			o(0, 2*sec, 1, refused)
		}, "1 2"},
		{"one host, of a member that has answered others", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 50 {
				o(0, sec, 1, hungUp(fmt.Sprintf("bad.example:%d", d+1)))
			}
		}, "0 1 2"},
		{"one host that others answer for", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for range 10 {
				o(0, sec, 1, hungUp("bad.example:80"))
				o(1, sec, 1, Observation{Kind: Success, Reached: true, Destination: Destination("bad.example:80")})
			}
		}, "0 1 2"},
		{"one host, at the rate of a window", func(g *Group, o func(int, time.Duration, int, Observation)) {
			for n := range time.Duration(10) {
				o(0, n*(g.cfg.Window+1), 1, hungUp("bad.example:80"))
				o(0, n*(g.cfg.Window+1), 1, success)
			}
		}, "0 1 2"},
		{"a member, of some hosts", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 5 {
				o(0, sec, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
			}
		}, "1 2"},
		{"a member, of some that others answer for", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 5 {
				o(1, sec, 1, hungUp(fmt.Sprintf("good%d.example:80", d))) // by chance
				o(1, sec, 1, Observation{Kind: Success, Reached: true, Destination: Destination(fmt.Sprintf("good%d.example:80", d))})
				o(0, sec, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
			}
		}, "1 2"},
		{"a member that is forgiven, and then convicted by answers elsewhere", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 5 {
				o(0, sec, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
				o(1, sec, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
				o(2, sec, 1, Observation{Kind: Success, Reached: true, Destination: Destination(fmt.Sprintf("good%d.example:80", d))})
			}
		}, "2 | 0"}, // both: the cap keeps one as the last resort
		{"what another did long ago", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 5 {
				o(1, sec, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
				o(1, sec, 1, success)
			}
			o(0, sec+suspicionWindow+1, 1, success)
			for d := range 5 {
				o(0, sec+suspicionWindow+1, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
			}
		}, "1 2"},
		{"a destination, of members that have not answered in a while", func(g *Group, o func(int, time.Duration, int, Observation)) {
			o(1, g.cfg.Window, 1, hungUp("bad.example:80"))
			o(0, g.cfg.Window+1, 5, hungUp("bad.example:80"))
		}, "0 1 2"},
		{"a member that has not answered in a while, of one host", func(g *Group, o func(int, time.Duration, int, Observation)) {
			o(0, g.cfg.Window+1, 5, hungUp("bad.example:80"))
		}, "1 2"},
		{"and then another one fails for it", func(g *Group, o func(int, time.Duration, int, Observation)) {
			o(0, g.cfg.Window+1, 5, hungUp("bad.example:80"))
			o(1, g.cfg.Window+1, 1, hungUp("bad.example:80"))
		}, "0 1 2"},
		{"which was not all", func(g *Group, o func(int, time.Duration, int, Observation)) {
			o(0, g.cfg.Window+1, 5, Observation{Kind: ConnectFailure})
			o(0, g.cfg.Window+1, 1, hungUp("bad.example:80"))
			o(1, g.cfg.Window+1, 1, hungUp("bad.example:80"))
		}, "1 2"},
		{"two members that have not answered in a while, of one host that the third reaches", func(g *Group, o func(int, time.Duration, int, Observation)) {
			for range 5 {
				o(0, g.cfg.Window+1, 1, hungUp("good.example:80"))
				o(1, g.cfg.Window+1, 1, hungUp("good.example:80"))
				o(2, g.cfg.Window+1, 1, success)
			}
		}, "2 | 1"}, // both: the cap keeps one as the last resort
		{"and that answer another one before", func(g *Group, o func(int, time.Duration, int, Observation)) {
			other := Observation{Kind: Success, Reached: true, Destination: Destination("other.example:80")}
			for range 5 {
				o(0, g.cfg.Window+1, 1, hungUp("good.example:80"))
				o(1, g.cfg.Window+1, 1, hungUp("good.example:80"))
				o(0, g.cfg.Window+1, 1, other)
				o(1, g.cfg.Window+1, 1, other)
				o(2, g.cfg.Window+1, 1, success)
			}
		}, "0 1 2"},
		{"all of them, of many hosts", func(g *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 16 {
				for i := range 3 {
					o(i, g.cfg.Window+1, 1, hungUp(fmt.Sprintf("good%d.example:80", d)))
				}
			}
		}, "0 | 2"}, // what the cap leaves
		{"failures that nobody relays", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			failure := hungUp("bad.example:80")
			failure.Relayed = false
			o(1, sec, 1, failure)
			o(0, sec, 5, failure)
		}, "1 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGroup(t, 3, exactConfig())
			for i := range 3 {
				groupObserve(g, i, 0, 1, success)
			}
			last := time.Duration(0)
			tc.run(g, func(i int, d time.Duration, n int, o Observation) {
				last = d
				groupObserve(g, i, d, n, o)
			})
			if got := picks(g.Available(at(last))); got != tc.picks {
				t.Errorf("%q, want %q", got, tc.picks)
			}
		})
	}
}

// TestHangUps_Forgiven: what a host has done to a member is taken back as a whole when it
// turns out to be the host, and the operator is told.
func TestHangUps_Forgiven(t *testing.T) {
	cfg := exactConfig()
	g := newGroup(t, 3, cfg)
	var events []Event
	observe := func(i int, o Observation) {
		for _, tr := range g.Observe(at(0), g.Members()[i], o).Transitions {
			events = append(events, tr.Event())
		}
	}
	for n := range cfg.ConsecutiveFailures {
		observe(0, hungUp(fmt.Sprintf("bad.example:%d", n+1)))
	}
	u := g.Members()[0].Upstream
	if u.Status().Circuit != Open {
		t.Fatal("not open")
	}
	observe(1, hungUp("bad.example:80"))
	r := u.Report(at(0), &cfg)
	if r.Circuit != Closed || r.Failures != 0 || r.Failed != 0 || r.Ejections != 0 || r.Factor != 1 {
		t.Errorf("%+v", r)
	}
	if fmt.Sprint(events) != fmt.Sprint([]Event{EventCircuitOpen, EventCircuitClosed}) {
		t.Errorf("events %v", events)
	}
	// Refused credentials are no part of it.
	for n := range cfg.ConsecutiveFailures {
		observe(2, hungUp(fmt.Sprintf("worse.example:%d", n+1)))
	}
	for range authFaults {
		observe(2, Observation{Kind: AuthFault})
	}
	observe(1, hungUp("worse.example:80"))
	if s := g.Members()[2].Upstream.Status(); s.Circuit != Open || !s.AuthFault {
		t.Errorf("%+v", s)
	}
}

// TestHangUps_Probe: a request for a host that fails leaves the probe to others, for a
// while, and as a probe says nothing.
func TestHangUps_Probe(t *testing.T) {
	cfg := exactConfig()
	g := newGroup(t, 2, cfg)
	groupObserve(g, 0, 0, 5, Observation{Kind: ConnectFailure})
	bad, end := "bad.example:80", cfg.OpenFor
	g.Available(at(0))
	groupObserve(g, 1, end, 1, hungUp(bad))
	if g.LeaveProbe(at(end-1), bad) {
		t.Error("no probe is due")
	}
	if !g.LeaveProbe(at(end), bad) || !g.LeaveProbe(at(end), "bad.example:81") || g.LeaveProbe(at(end), "good.example:80") {
		t.Error("a probe is due")
	}
	_, tok, ok := g.TryOverdueProbe(at(2*end), 0, nil)
	if !ok {
		t.Fatal("no probe")
	}
	o := hungUp(bad)
	o.Probe = tok
	groupObserve(g, 0, 2*end, 1, o)
	if _, _, ok := g.TryProbe(at(3*end), 0, nil); !ok {
		t.Error("the host has made the open period longer")
	}
	groupObserve(g, 1, 3*end, 1, Observation{Kind: Success, Reached: true, Destination: Destination(bad)})
	if g.LeaveProbe(at(3*end), bad) {
		t.Error("it has answered")
	}
}

// TestHangUpsAreBounded: whatever destinations clients ask for.
func TestHangUpsAreBounded(t *testing.T) {
	var h hangUps
	u, v := new(Upstream), new(Upstream)
	for d := range uint64(10 * maxSoftFails) {
		h.several(1, u, d)
	}
	if n := len(h.known); n > maxSoftFails {
		t.Errorf("%d remembered", n)
	}
	last := uint64(10*maxSoftFails - 1)
	if several, first := h.several(1, v, last); !several || first != u {
		t.Error("the last one was forgotten")
	}
	// What is old goes first.
	later := instant(1).add(suspicionWindow + 1)
	h.several(later, u, 1)
	if n := len(h.known); n != 1 {
		t.Errorf("%d remembered, of which one is not old", n)
	}
}

// TestChargesAreBounded: whatever hosts clients ask for.
func TestChargesAreBounded(t *testing.T) {
	var c charges
	for d := range uint64(10 * maxSoftFails) {
		c.add(1, sec, d+1, 1)
	}
	if len(c) != maxSoftFails || c.take(1, sec, 10*maxSoftFails).n != 1 || c.take(1, sec, 1).n != 0 {
		t.Errorf("%d remembered, or not the last ones", len(c))
	}
	if c.add(instant(2).add(sec), sec, 1, 1); len(c) != 1 {
		t.Errorf("%d remembered, of which one is not old", len(c))
	}
}
