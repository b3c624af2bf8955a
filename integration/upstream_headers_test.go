package integration

import (
	"net/http"
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

// A CONNECT to an upstream tells of its client and its trace as an exchange does. One whose
// tunnel exchanges share tells of neither.
func TestUpstream_ConnectFields(t *testing.T) {
	requests := make(chan *originRequest, 64)
	upstream := newRawOrigin(t, func(oc *originConn) {
		requests <- oc.request()
		oc.send("HTTP/1.1 200 OK\r\n\r\n")
		_ = oc.awaitEnd()
	})
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	theirs := []string{"for=198.51.100.7"}
	for _, tc := range []struct {
		name, settings string
		want           map[string][]string
	}{
		{"default", "", map[string][]string{"Forwarded": append(theirs, "for=127.0.0.1"), "Traceparent": {trace}, "Tracestate": {"a=b"}, "User-Agent": nil}},
		{"full", "forwarded full\n", map[string][]string{"Forwarded": append(theirs, `for=127.0.0.1;host="some.test:443"`)}},
		{"hidden", "hide_ip\n", map[string][]string{"Forwarded": append(theirs, "for=unknown")}},
		{"off", "forwarded off\n", map[string][]string{"Forwarded": theirs, "Traceparent": {trace}}},
		{
			"taken away", "route {\n to default\n header_up -Traceparent\n header_up -Forwarded\n}\n",
			map[string][]string{"Forwarded": {"for=127.0.0.1"}, "Traceparent": nil, "Tracestate": {"a=b"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, mode{}, setup{egress: usual + "upstream http://" + upstream.addr + "\n" + tc.settings})
			eachClient(t, p, func(t *testing.T, c *client) {
				_, tun := c.connect(t, "some.test:443", "", http.Header{
					"Forwarded": theirs, "Traceparent": {trace}, "Tracestate": {"a=b"}, "User-Agent": {"x"},
				})
				tun.Close()
				expectFields(t, await(t, requests, "the CONNECT"), tc.want)
			})
		})
	}
	t.Run("the operator's own", func(t *testing.T) {
		p := start(t, mode{}, setup{egress: usual + "upstream http://" + upstream.addr + " {\n header Traceparent ours\n}\n"})
		_, tun := p.client(t, "h1").connect(t, "some.test:443", "", http.Header{"Traceparent": {trace}})
		tun.Close()
		expectFields(t, await(t, requests, "the CONNECT"), map[string][]string{"Traceparent": {"ours"}})
	})
	t.Run("shared", func(t *testing.T) {
		p := start(t, mode{}, setup{egress: usual + "upstream http://" + upstream.addr + "\n"})
		p.dialPlain(t).send("GET https://some.test/ HTTP/1.1\r\nHost: x\r\nForwarded: for=198.51.100.7\r\nTraceparent: " + trace + "\r\n\r\n")
		saw := await(t, requests, "the CONNECT")
		expectFields(t, saw, map[string][]string{"Forwarded": nil, "Traceparent": nil})
		if len(saw.header["Via"]) == 0 {
			t.Error("no Via")
		}
	})
}
