package integration

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

// expectLimit fails the test unless the response is a 503 for a limit of the
// pool, with the time after which to try again.
func expectLimit(t *testing.T, resp *http.Response) {
	t.Helper()
	expectError(t, resp, 503, "connection_limit_reached")
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err != nil || n < 1 {
		t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
	}
}

// holding is an origin that answers "/hold" only after release, and everything
// else at once.
func holding(t *testing.T, release <-chan struct{}) (origin *rawOrigin, arrived <-chan struct{}) {
	t.Helper()
	in := make(chan struct{}, 64)
	return newRawOrigin(t, func(oc *originConn) {
		for {
			if oc.request().target == "/hold" {
				in <- struct{}{}
				oc.hold(release)
			}
			oc.ok("done")
		}
	}), in
}

// holdOne has an origin hold a request of c back. finish lets it go and looks at the
// answer.
func (c *client) holdOne(t *testing.T) (origin *rawOrigin, finish func()) {
	t.Helper()
	release := newGate()
	t.Cleanup(release.open)
	origin, arrived := holding(t, release.c)
	first := c.goTry(c.newRequest(t, "GET", origin.url("/hold"), nil))
	await(t, arrived, "the first request")
	return origin, func() {
		t.Helper()
		release.open()
		await(t, first, "the first response").must(t).expect(t, 200, "done")
	}
}

// oneOfTwoWaits sends two requests, of which one must be refused; which one is the
// scheduler's choice. It returns where the answer to the other will come.
func (c *client) oneOfTwoWaits(t *testing.T, origin *rawOrigin) <-chan answer {
	t.Helper()
	one, other := c.goTry(c.newRequest(t, "GET", origin.url("/2"), nil)), c.goTry(c.newRequest(t, "GET", origin.url("/3"), nil))
	select {
	case a := <-one:
		expectLimit(t, a.must(t).Response)
		return other
	case a := <-other:
		expectLimit(t, a.must(t).Response)
		return one
	case <-time.After(patience):
		t.Fatal("nobody was refused")
		return nil
	}
}

// upstream.md §1: over a limit of the pool a request gets 503 with Retry-After,
// at once where nobody may wait; the destination's circuit is not charged.
func TestLimits_NobodyWaits(t *testing.T) {
	for _, tc := range []struct{ name, transport string }{
		{"per host", "max_conns_per_host 1\n max_pending_per_host off"},
		{"per host, no queue at all", "max_conns_per_host 1\n max_pending off"},
		{"in all", "max_conns 1\n max_pending_per_host off"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 2\n open_for 1m\n}\ntransport {\n " + tc.transport + "\n pending_timeout 1m\n}\n"})
				eachClient(t, p, func(t *testing.T, c *client) {
					origin, finish := c.holdOne(t)
					for range 4 {
						expectLimit(t, c.get(t, origin.url("/")).Response)
					}
					if m.access {
						line := p.logs.wait(t, "the refusal", func(l logLine) bool {
							return l.isAccess() && l.str("request.host") == origin.addr && l.num("status") == 503
						})
						if line.str("egress.blame") != "proxy" || line.str("egress.reason") != "connection_limit_reached" {
							t.Errorf("logged as %v", line["egress"])
						}
					}
					finish()
					c.get(t, origin.url("/")).expect(t, 200, "done")
					if n := origin.count(); n != 1 {
						t.Errorf("%d connections", n)
					}
				})
			})
		})
	}
}

// A waiter gets the connection that comes back; when the line is full, the next
// one is refused at once, though the timeout is long.
func TestLimits_QueueFull(t *testing.T) {
	for _, tc := range []struct{ name, transport string }{
		{"per host", "max_conns_per_host 1\n max_pending_per_host 1"},
		{"in all", "max_conns_per_host 1\n max_pending 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{egress: usual + "transport {\n " + tc.transport + "\n pending_timeout 1m\n}\n"})
				eachClient(t, p, func(t *testing.T, c *client) {
					origin, finish := c.holdOne(t)
					waiting := c.oneOfTwoWaits(t, origin)
					finish()
					await(t, waiting, "the waiter's response").must(t).expect(t, 200, "done")
				})
			})
		})
	}
}

// A request that waits longer than pending_timeout is refused; no slot is lost.
func TestLimits_PendingTimeout(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_conns_per_host 1\n pending_timeout 100ms\n}\n"})
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			origin, finish := c.holdOne(t)
			for range 3 {
				expectLimit(t, c.get(t, origin.url("/")).Response)
			}
			finish()
			for range 3 { // a slot comes back a moment after the response
				servedSoon(t, c, func() *http.Request { return c.newRequest(t, "GET", origin.url("/"), nil) })
			}
		})
	})
}

// Tunnels do not count against the limits of exchanges.
func TestLimits_TunnelsApart(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_conns 1\n max_conns_per_host 1\n max_pending off\n max_per_client 1\n}\n"})
		origin, _ := recorder(t, okResponse)
		c := p.client(t, "h1")
		for range 3 {
			tun := c.open(t, origin.addr)
			defer tun.Close()
		}
		c.get(t, origin.url("/")).expect(t, 200, "ok")
	})
}

// response_header_timeout counts from the end of the request, with a body too.
func TestResponseHeaderTimeout_AfterUpload(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n response_header_timeout 300ms\n expect_continue_timeout 50ms\n}\n"})
		eachH1AtOnce(t, func(t *testing.T, kind string) {
			for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
				silent := newRawOrigin(t, func(oc *originConn) { _ = oc.awaitEnd() })
				raw := p.dialH1(t, kind)
				raw.send("POST " + silent.url("/") + " HTTP/1.1\r\nHost: x\r\n" + expect + "Content-Length: 5\r\n\r\n")
				if expect != "" {
					if resp := raw.response("POST"); resp.StatusCode != 100 {
						t.Fatalf("got %d, want 100", resp.StatusCode)
					}
				}
				raw.send("hello")
				expectError(t, raw.response("POST").Response, 504, "http_response_timeout")
			}
		})
	})
}
