package health

import (
	"fmt"
	"testing"
)

// TestNoProof: that another member, or the way past the group, fails for a destination
// in its own way does not show that the destination can be reached there.
func TestNoProof(t *testing.T) {
	for name, o := range map[string]Observation{
		"says that the destination refuses": {Kind: Success},
		"does not reply":                    {Kind: ReplyTimeout},
		"does not explain":                  {Kind: SoftFail},
		"is overloaded":                     {Kind: Overload},
		"was given up":                      {Kind: Cancelled},
	} {
		g := newGroup(t, 3, exactConfig())
		for i := range 20 {
			o.Destination = Destination(fmt.Sprintf("dead%d.example:443", i))
			groupObserve(g, 0, sec, 1, Observation{Kind: SoftFail, Destination: o.Destination})
			groupObserve(g, 1, sec, 1, o)
		}
		if got := picks(g.Available(at(sec))); got != "0 1 2" {
			t.Errorf("the other one %s: %q", name, got)
		}
	}
}

// TestHangUps_ExplainedElsewhere: a destination that another member calls dead has not
// answered, so what ended through several members stays its fault.
func TestHangUps_ExplainedElsewhere(t *testing.T) {
	g := newGroup(t, 3, exactConfig())
	for i := range 3 {
		groupObserve(g, i, 0, 1, Observation{Kind: Success, Reached: true, Destination: Destination("good.example:80")})
	}
	bad := hungUp("bad.example:80")
	for range 5 {
		groupObserve(g, 0, sec, 1, bad)
		groupObserve(g, 1, sec, 1, bad)
		groupObserve(g, 2, sec, 1, Observation{Kind: Success, Destination: bad.Destination})
	}
	if got := picks(g.Available(at(sec))); got != "0 1 2" {
		t.Errorf("%q", got)
	}
}
