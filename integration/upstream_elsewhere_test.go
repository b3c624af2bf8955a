package integration

import "testing"

// Upstreams that reach none of several destinations, which a fallback past them does
// reach, are convicted by that: one of the two goes, the last one stays.
func TestUpstream_FallbackConvicts(t *testing.T) {
	checkLeaks(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	one.behave(answering(502))
	two.behave(answering(502))
	events := newTransitions(t)
	p := start(t, mode{}, setup{
		egress: usual + groupOf("lb_policy first\ncircuit {\nopen_for 1m\npanic_below 0%\n}\n", one, two) + "route default fallback direct\n",
		global: events.global(),
	})
	for range 8 {
		echo := newEchoOrigin(t)
		tun := p.client(t, "h1").open(t, echo.addr)
		alive(t, tun, "the tunnel")
		tun.Close()
	}
	events.await(t, one, "circuit_open")
}
