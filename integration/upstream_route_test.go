package integration

import (
	"net/http"
	"strings"
	"testing"
)

// The first route that matches decides, by matchers of every kind; what none matches
// is refused, and so is what is routed to deny. Nothing of that is dialed.
func TestUpstreamRoute_FirstMatch(t *testing.T) {
	checkLeaks(t)
	a, b, direct := newForwarder(t, "A"), newForwarder(t, "B"), newForwarder(t, "direct")
	egress := usual + `transport {
	hosts_override direct.test 127.0.0.1
	hosts_override other.test 127.0.0.1
}
upstreams a {
	upstream http://` + a.addr + `
}
upstreams b {
	upstream http://` + b.addr + `
}
route @a a
route {
	match {
		host b.test
		not header X-No *
	}
	match header X-B *
	to b
}
route @never direct
route @deny deny
route @direct direct
`
	site := `@a host a.test
@never client_ip 192.0.2.1
@deny host deny.test
@direct {
	host direct.test
	client_ip 127.0.0.1
}`
	p := start(t, mode{access: true}, setup{site: site, egress: egress})
	eachClient(t, p, func(t *testing.T, c *client) {
		for _, tc := range []struct {
			host, field, body string
			group             string
		}{
			{"a.test", "", "A", "a"},
			{"A.TEST", "", "A", "a"},
			{"a.test", "X-B", "A", "a"},
			{"b.test", "", "B", "b"},
			{"b.test", "X-No", "", ""},
			{"b.test:" + port(direct.addr), "", "B", "b"},
			{"else.test", "X-B", "B", "b"},
			{"direct.test:" + port(direct.addr), "", "direct", ""},
			{"deny.test", "", "", ""},
			{"deny.test:" + port(direct.addr), "", "", ""},
			{"other.test:" + port(direct.addr), "", "", ""},
			{direct.addr, "", "", ""},
		} {
			before := a.count() + b.count() + direct.count()
			r := c.newRequest(t, "GET", "http://"+tc.host+"/", nil)
			header := http.Header{}
			if tc.field != "" {
				r.Header.Set(tc.field, "1")
				header.Set(tc.field, "1")
			}
			resp := c.do(t, r)
			dest := tc.host
			if !strings.Contains(dest, ":") {
				dest += ":80"
			}
			if tc.body != "" {
				resp.expect(t, 200, tc.body)
				continue
			}
			expectError(t, resp.Response, 403, "http_request_denied")
			refused, _ := c.connect(t, dest, "", header)
			expectError(t, refused, 403, "http_request_denied")
			if after := a.count() + b.count() + direct.count(); after != before {
				t.Errorf("%s: something was connected to", tc.host)
			}
		}
	})
}

// `host` sees the destination of a CONNECT.
func TestUpstreamRoute_HostOfCONNECT(t *testing.T) {
	checkLeaks(t)
	saw := make(chan string, 10)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		saw <- r.target
		oc.send("HTTP/1.1 200 OK\r\n\r\n")
		_ = oc.awaitEnd()
		return false
	})
	p := start(t, mode{access: true}, setup{site: "@a host a.test", egress: usual + "upstreams a {\n upstream http://" + up.addr + "\n}\nroute @a a\nroute deny\n"})
	eachClient(t, p, func(t *testing.T, c *client) {
		tun := c.open(t, "a.test:443")
		if got := await(t, saw, "the CONNECT"); got != "a.test:443" {
			t.Errorf("CONNECT %s", got)
		}
		tun.Close()
		resp, _ := c.connect(t, "b.test:443", "", http.Header{"X-Forwarded-Host": {"a.test"}})
		expectError(t, resp, 403)
	})
	eachH1(t, func(t *testing.T, kind string) { // the request target counts, whatever Host says
		r := p.dialH1(t, kind).roundTrip("CONNECT", "CONNECT b.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n")
		expectError(t, r.Response, 403)
	})
	if line := p.logs.access(t, "CONNECT", "b.test:443"); line.str("egress.blame") != "policy" || line.at("egress.group") != nil {
		t.Errorf("%v", line["egress"])
	}
}

// The fallback of a route is taken where its group has no member that could serve
// the request; its rules are those of the way that is taken.
func TestUpstreamRoute_Fallback(t *testing.T) {
	origin, _ := recorder(t, okResponse)
	b := newForwarder(t, "B")
	dying := func() string {
		return newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool { return false }).addr
	}
	refusing := func(status string) string {
		return newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
			oc.send("HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n\r\n")
			return true
		}).addr
	}
	for _, tc := range []struct {
		name, method, group, fallback, url string
		status                             int
		body                               string
		path                               string
	}{
		{"refused, to a group", "POST", refusedAddr(t), "b", "http://o.test/", 200, "B", "upstream"},
		{"refused, to direct", "POST", refusedAddr(t), "direct", origin.url("/"), 200, "ok", "direct"},
		{"refused, to deny", "GET", refusedAddr(t), "deny", origin.url("/"), 403, "", ""},
		{"direct checks addresses", "GET", refusedAddr(t), "direct", "http://inside.test/", 403, "", ""},
		{"died, idempotent", "GET", dying(), "b", "http://o.test/", 200, "B", "upstream"},
		{"died, unsafe", "POST", dying(), "b", "http://o.test/", 502, "", "upstream"},
		{"died, to direct", "GET", dying(), "direct", origin.url("/"), 502, "", "upstream"},
		{"407", "GET", refusing("407 x"), "b", "http://o.test/", 200, "B", "upstream"},
		{"407, unsafe", "POST", refusing("407 x"), "b", "http://o.test/", 500, "", "upstream"},
		{"407, to direct", "GET", refusing("407 x\r\nProxy-Authenticate: Basic realm=x"), "direct", origin.url("/"), 500, "", "upstream"},
		{"502 of its own, to direct", "GET", refusing("502 x\r\nProxy-Status: x; error=proxy_internal_error"), "direct", origin.url("/"), 502, "", "upstream"},
		{"502 of its own", "GET", refusing("502 x\r\nProxy-Status: x; error=proxy_internal_error"), "b", "http://o.test/", 200, "B", "upstream"},
		{"502 of its own, unsafe", "POST", refusing("502 x\r\nProxy-Status: x; error=proxy_internal_error"), "b", "http://o.test/", 502, "", "upstream"},
		{"502 that may be the origin's", "GET", refusing("502 x"), "b", "http://o.test/", 502, "", "upstream"},
		{"502 behind it", "GET", refusing("502 x\r\nProxy-Status: x; error=dns_error"), "b", "http://o.test/", 502, "", "upstream"},
		{"403", "GET", refusing("403 x"), "b", "http://o.test/", 403, "", "upstream"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			egress := usual + "transport {\n hosts_override inside.test 10.1.2.3\n}\nupstreams a {\n upstream http://" + tc.group + "\n lb_retries off\n}\nroute a fallback " + tc.fallback + "\n"
			if tc.fallback == "b" {
				egress += "upstreams b {\n upstream http://" + b.addr + "\n}\n"
			}
			p := start(t, mode{access: true}, setup{egress: egress})
			c := p.client(t, "h1")
			for range 2 {
				resp := c.do(t, c.newRequest(t, tc.method, tc.url, nil))
				if resp.StatusCode != tc.status || tc.body != "" && resp.body != tc.body {
					t.Errorf("%d %q, want %d %q", resp.StatusCode, resp.body, tc.status, tc.body)
				}
			}
			line := p.egressLine(t, tc.url)
			if got := line.str("egress.path"); got != tc.path {
				t.Errorf("path %q, want %q: %v", got, tc.path, line["egress"])
			}
		})
	}
}

// A request that two groups may have acted on is sent to no third upstream.
func TestUpstreamRoute_FallbackSendsTwiceAtMost(t *testing.T) {
	checkLeaks(t)
	var seen []*fakeUpstream
	dying := func() string {
		u := newFakeUpstream(t, func(*originConn, *originRequest) bool { return false })
		seen = append(seen, u)
		return "upstream http://" + u.addr + "\n"
	}
	p := start(t, mode{}, setup{egress: usual + "upstreams a {\n" + dying() + "lb_retries off\n}\nupstreams b {\n" + dying() + dying() + dying() + "}\nroute a fallback b\n"})
	expectError(t, p.client(t, "h1").get(t, "http://o.test/").Response, 502, "connection_terminated")
	n := 0
	for _, u := range seen {
		n += u.asked()
	}
	if n != 2 {
		t.Errorf("it was sent %d times, want 2", n)
	}
}

// header_up changes what leaves; a client can neither take it away by listing it in
// Connection, nor say the same beside it, nor put fields in that are not to be set.
func TestUpstreamRoute_HeaderUp(t *testing.T) {
	checkLeaks(t)
	saw := make(chan *originRequest, 10)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		saw <- r
		oc.ok("ok")
		return true
	})
	// A name that the client may choose is the operator's mistake; it must not do
	// harm all the same.
	const named = `route {
	to a
	header_up {http.request.header.X-Name} evil
}
`
	p := start(t, mode{}, setup{site: "@plain not header X-Name *", egress: usual + "upstreams a {\n upstream http://" + up.addr + "\n}\n" + `route @plain {
	to a
	header_up X-Tenant one
	header_up +X-Add two
	header_up -X-Del
	header_up X-From {http.request.header.X-Client}
}
` + named})
	for _, tc := range []struct{ fields, name, want string }{
		{"", "X-Tenant", "one"},
		{"X-Tenant: mine\r\n", "X-Tenant", "one"},
		{"Connection: X-Tenant\r\n", "X-Tenant", "one"},
		{"Connection: X-Tenant, X-Other\r\nX-Other: 1\r\n", "X-Other", ""},
		{"X-Add: mine\r\n", "X-Add", "mine,two"},
		{"X-Del: 1\r\n", "X-Del", ""},
		{"X-Client: c\r\n", "X-From", "c"},
		{"X-Name: Host\r\n", "Host", "o.test"},
		{"X-Name: Transfer-Encoding\r\n", "Transfer-Encoding", ""},
		{"X-Name: Content-Length\r\n", "Content-Length", ""},
		{"X-Name: Proxy-Authorization\r\n", "Proxy-Authorization", ""},
		{"X-Name: Connection\r\n", "Connection", ""},
		{"X-Name: Upgrade\r\n", "Upgrade", ""},
	} {
		resp := p.dialPlain(t).roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\n"+tc.fields+"\r\n")
		if resp.StatusCode == 400 && strings.HasPrefix(tc.fields, "X-Name") {
			continue // refused is as well
		}
		if resp.StatusCode != 200 {
			t.Errorf("%q: %d", tc.fields, resp.StatusCode)
			continue
		}
		r := await(t, saw, "the request")
		if got := strings.Join(r.fields(tc.name), ","); got != tc.want {
			t.Errorf("%q: %s is %q, want %q", tc.fields, tc.name, got, tc.want)
		}
	}
	if r := p.dialPlain(t).roundTrip("GET", "GET http://10.1.2.3/ HTTP/1.1\r\nHost: x\r\n\r\n"); r.StatusCode != 403 {
		t.Errorf("a denied address: %d", r.StatusCode)
	}
}

// The group that is the fallback has retries of its own.
func TestUpstreamRoute_FallbackHasRetries(t *testing.T) {
	checkLeaks(t)
	good := newForwarder(t, "B")
	refused := func() string { return "upstream http://" + refusedAddr(t) + "\n" }
	p := start(t, mode{access: true}, setup{egress: usual + "upstreams a {\n" + refused() + refused() + refused() + "}\n" +
		"upstreams b {\n lb_policy first\n" + refused() + refused() + "upstream http://" + good.addr + "\n}\nroute a fallback b\n"})
	p.client(t, "h1").get(t, "http://o.test/x").expect(t, 200, "B")
	if line := p.egressLine(t, "/x"); line.num("egress.attempts") != 6 || line.str("egress.group") != "b" {
		t.Errorf("%v", line["egress"])
	}
}
