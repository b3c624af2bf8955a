package integration

import (
	"fmt"
	"testing"
)

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
	for i := range 8 {
		echo := newEchoHost(t, i)
		tun := p.client(t, "h1").open(t, echo.addr)
		alive(t, tun, "the tunnel")
		tun.Close()
	}
	events.await(t, one, "circuit_open")
}

// Destinations that nobody reaches take no upstream out, in whatever way the members
// say so: that another one explains the failure is no proof that it could be avoided.
func TestUpstream_RefusalElsewhereIsNoProof(t *testing.T) {
	for name, explains := range map[string]behaviour{
		"Proxy-Status":  answering(502, "Proxy-Status: two; error=connection_refused"),
		"X-Squid-Error": answering(503, "X-Squid-Error: ERR_CONNECT_FAIL 111"),
		"denied":        answering(403),
		"closes":        closing,
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
			events := newTransitions(t)
			p := start(t, mode{}, setup{
				egress: usual + groupOf("lb_policy round_robin\ncircuit {\nopen_for 1m\n}\n", one, two) + "route default\n",
				global: events.global(),
			})
			c := p.client(t, "h1")
			for range 4 { // both have answered
				echo := newEchoOrigin(t)
				tun := c.open(t, echo.addr)
				alive(t, tun, "the tunnel")
				tun.Close()
			}
			one.behave(answering(502))
			two.behave(explains)
			one.asked()
			for i := range 16 {
				resp, tun := c.connect(t, fmt.Sprintf("127.0.1.%d:%s", i+1, port(freeAddr(t))), "", nil)
				if resp.StatusCode < 400 {
					t.Errorf("status %d", resp.StatusCode)
				}
				tun.Close()
			}
			if n := len(one.asked()); n < 8 {
				t.Errorf("one upstream was asked %d times", n)
			}
			events.expect(t, p, map[*scriptedUpstream][]string{one: nil, two: nil})
		})
	}
}
