package integration

import (
	"net/http"
	"testing"
	"time"
)

// What an origin answers through upstreams is the client's, whatever it looks like: it is
// asked once, and no upstream loses weight or counts a failure.
func TestUpstream_AnswersOfOrigins(t *testing.T) {
	for name, answer := range map[string]behaviour{
		"empty 503":                      answering(503),
		"empty 503 with Retry-After":     answering(503, "Retry-After: 120"),
		"429 of a CDN behind a Via":      answering(429, "Via: 1.1 parent", "Proxy-Status: cdn; error=connection_limit_reached", "Retry-After: 60"),
		"503 of a CDN behind a Via":      answering(503, "Via: 1.1 parent", "Proxy-Status: cdn; error=connection_limit_reached"),
		"504 of a CDN behind a Via":      answering(504, "Via: 1.1 parent", "Proxy-Status: cdn; error=connection_timeout"),
		"of a CDN, and the parent's Via": answering(502, "Via: 1.1 cdn, 1.1 parent", "Proxy-Status: cdn; error=proxy_internal_error, parent; received-status=502"),
	} {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
			one.behave(answer)
			two.behave(answer)
			p := start(t, mode{}, setup{egress: usual + groupOf("lb_policy round_robin", one, two) + "route default\n"})
			c := p.client(t, "h1")
			for range 8 { // more than it takes to open the circuit of a destination
				resp := c.get(t, "http://origin.example/")
				if resp.StatusCode == http.StatusOK || resp.Header.Get("Via") == "" {
					t.Errorf("status %d %v", resp.StatusCode, resp.Header)
				}
			}
			if n := len(one.asked()) + len(two.asked()); n != 8 {
				t.Errorf("8 requests were asked %d times", n)
			}
		})
	}
}

// A check target that is down leaves the only upstream in rotation.
func TestUpstream_CheckTargetOfOne(t *testing.T) {
	checkLeaks(t)
	one := newScriptedUpstream(t, "one")
	target := freeAddr(t) // nobody listens
	one.behave(only(target, answering(502)))
	events := newTransitions(t)
	p := start(t, mode{}, setup{
		egress: usual + groupOf("health_check connect "+target+"\nhealth_interval 100ms\nhealth_fails 1\n", one) + "route default\n",
		global: events.global(),
	})
	origin := newHTTPOrigin(t, func(http.ResponseWriter, *http.Request) {})
	c := p.client(t, "h1")
	checks := 0
	for deadline := time.Now().Add(patience); checks < 5; {
		if time.Now().After(deadline) {
			t.Fatalf("%d checks", checks)
		}
		checks += one.askedFor(target)
		if resp := c.get(t, origin.URL); resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d %v", resp.StatusCode, resp.Header)
		}
	}
	events.expect(t, p, map[*scriptedUpstream][]string{one: nil})
	// It is out when it cannot be reached itself, and comes back.
	one.down()
	events.await(t, one, "unhealthy")
	one.up()
	events.await(t, one, "unhealthy", "healthy")
}
