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
		{"a destination that refuses credentials", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			refused := hungUp("bad.example:80")
			refused.Kind = AuthFault
			for range 50 {
				for i := range 3 {
					o(i, sec, 1, refused)
				}
			}
		}, "0 1 2"},
		{"destinations that refuse credentials, each through one member", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			for d := range 50 {
				refused := hungUp(fmt.Sprintf("bad%d.example:80", d))
				refused.Kind = AuthFault
				o(d%3, sec, 1, refused)
			}
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
		{"a member that refuses credentials", func(g *Group, o func(int, time.Duration, int, Observation)) {
			refused := hungUp("good.example:80")
			refused.Kind = AuthFault
			o(0, g.cfg.Window, 3, refused) // perhaps it was the destination
			o(1, g.cfg.Window+1, 1, success)
			o(2, g.cfg.Window+1, 1, success)
			o(0, g.cfg.Window+1, 3, refused)
		}, "1 2"},
		{"a member that refuses credentials to CONNECT", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			refused := hungUp("good.example:443")
			refused.Kind, refused.Relayed = AuthFault, false
			o(0, sec, 3, refused)
		}, "1 2"},
		{"a member, of one destination", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			o(0, sec, 5, hungUp("good.example:80"))
		}, "1 2"},
		{"a member, of one that others answer for", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			o(0, sec, 1, hungUp("good.example:80"))
			o(1, sec, 1, hungUp("good.example:80")) // by chance
			o(1, sec, 1, success)
			o(0, sec, 5, hungUp("good.example:80"))
		}, "1 2"},
		{"what another did long ago", func(_ *Group, o func(int, time.Duration, int, Observation)) {
			o(1, sec, 1, hungUp("good.example:80"))
			o(0, sec+suspicionWindow+1, 1, success)
			o(0, sec+suspicionWindow+1, 5, hungUp("good.example:80"))
		}, "1 2"},
		{"a member that has not answered in a while", func(g *Group, o func(int, time.Duration, int, Observation)) {
			o(1, g.cfg.Window, 1, hungUp("bad.example:80"))
			o(0, g.cfg.Window+1, 5, hungUp("bad.example:80"))
		}, "1 2"},
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

// TestHangUpsAreBounded: whatever destinations clients ask for.
func TestHangUpsAreBounded(t *testing.T) {
	var h hangUps
	u, v := new(Upstream), new(Upstream)
	for d := range uint64(10 * maxSoftFails) {
		h.several(1, u, d, true)
	}
	if n := len(h.known); n > maxSoftFails {
		t.Errorf("%d remembered", n)
	}
	last := uint64(10*maxSoftFails - 1)
	if several, wrongly := h.several(1, v, last, true); !several || wrongly != u {
		t.Error("the last one was forgotten")
	}
	// What is old goes first.
	later := instant(1).add(suspicionWindow + 1)
	h.several(later, u, 1, true)
	if n := len(h.known); n != 1 {
		t.Errorf("%d remembered, of which one is not old", n)
	}
}
