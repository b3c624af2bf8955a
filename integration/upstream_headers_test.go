package integration

import (
	"slices"
	"testing"
)

// What a route changes of fields: those of exchanges and of the CONNECT request to an
// upstream on their way up, over HTTP/1.1 and HTTP/2, and those of responses.
func TestRoute_Headers(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		requests := make(chan *originRequest, 64)
		upstream := newRawOrigin(t, func(oc *originConn) {
			for {
				r := oc.request()
				requests <- r
				if r.method == "CONNECT" {
					oc.send("HTTP/1.1 200 OK\r\n\r\npong")
					_ = oc.awaitEnd()
					return
				}
				oc.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Internal: secret\r\nX-Kept: yes\r\n\r\nok")
			}
		})
		p := start(t, m, setup{egress: usual + "upstream http://" + upstream.addr + ` {
			header X-Team crawler
		}
		route {
			to default
			header_up X-Session {http.request.method}-1
			header_up -X-Private
			header_down -X-Internal
			header_down X-Proxy egress
		}
		`})
		eachClient(t, p, func(t *testing.T, c *client) {
			r := c.newRequest(t, "GET", "http://origin.test/", nil)
			r.Header.Set("X-Private", "mine")
			r.Header.Set("X-Session", "forged")
			resp := c.do(t, r)
			resp.expect(t, 200, "ok")
			if resp.Header.Get("X-Internal") != "" || resp.Header.Get("X-Proxy") != "egress" || resp.Header.Get("X-Kept") != "yes" {
				t.Errorf("response fields: %v", resp.Header)
			}
			saw := await(t, requests, "the exchange")
			expectFields(t, saw, map[string][]string{"X-Session": {"GET-1"}, "X-Private": nil, "X-Team": {"crawler"}})

			tun := c.open(t, "origin.test:443")
			if got := readN(t, tun, 4); got != "pong" {
				t.Errorf("tunnel: %q", got)
			}
			tun.Close()
			saw = await(t, requests, "the CONNECT")
			expectFields(t, saw, map[string][]string{"X-Session": {"CONNECT-1"}, "X-Team": {"crawler"}})
		})
	})
}

func expectFields(t *testing.T, r *originRequest, want map[string][]string) {
	t.Helper()
	for name, values := range want {
		if got := r.header[name]; !slices.Equal(got, values) {
			t.Errorf("%s %s: %q, want %q", r.method, name, got, values)
		}
	}
}
