package integration

import (
	"strings"
	"testing"
	"time"
)

// slowBodies is an upstream whose answer to /long does not end before release is closed.
func slowBodies(t *testing.T, release <-chan struct{}) *fakeUpstream {
	return newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		switch {
		case strings.HasSuffix(r.target, "/fail"):
			oc.send("HTTP/1.1 502 Bad Gateway\r\nProxy-Status: parent; error=connection_refused\r\nContent-Length: 0\r\n\r\n")
		case strings.HasSuffix(r.target, "/long"):
			oc.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx")
			oc.hold(release)
			oc.send("x")
		default:
			oc.ok("ok")
		}
		return true
	})
}

// download begins to download and returns when the head is there: its status.
func (p *proxy) download(t *testing.T) int {
	raw := p.dialPlain(t)
	raw.send("GET http://some.test/long HTTP/1.1\r\nHost: some.test\r\n\r\n")
	return raw.responseHead("GET").StatusCode
}

// The head of a response settles the probe of its destination: while the rest comes,
// others get through.
func TestSettled_DestinationProbe(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	up := slowBodies(t, release)
	p := start(t, mode{}, setup{egress: usual + "destination_circuit {\n failures 5\n window 10m\n open_for 1s\n max_open_for 1s\n}\nupstream http://" + up.addr + "\n"})
	c := p.client(t, "h1")
	for range 5 {
		c.get(t, "http://some.test/fail")
	}
	refused := 0
	for deadline := time.Now().Add(30 * time.Second); p.download(t) != 200; refused++ {
		if time.Now().After(deadline) {
			t.Fatal("no download became the probe")
		}
	}
	if refused == 0 {
		t.Fatal("the circuit did not open")
	}
	for range 3 {
		c.get(t, "http://some.test/").expect(t, 200, "ok")
	}
}

// It also gives back the place of a retry in the budget.
func TestSettled_RetryBudget(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	up := slowBodies(t, release)
	p := start(t, mode{}, setup{egress: usual + "upstreams default {\n upstream http://" + refusedAddr(t) + "\n upstream http://" + refusedAddr(t) + "\n upstream http://" + up.addr +
		"\n lb_policy first\n circuit {\n consecutive_failures 1000\n min_success_rate 0%\n }\n}\n"})
	for range 4 { // more than the budget has
		if status := p.download(t); status != 200 {
			t.Fatalf("status %d", status)
		}
	}
	p.client(t, "h1").get(t, "http://some.test/").expect(t, 200, "ok")
}
