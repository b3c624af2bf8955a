package integration

import (
	"net"
	"net/http"
	"testing"
)

// sourceOf tells from which address the origin sees a tunnel.
func (c *client) sourceOf(t *testing.T, origin *rawOrigin, header http.Header) string {
	t.Helper()
	resp, tun := c.connect(t, origin.addr, "", header)
	defer tun.Close()
	if resp.StatusCode != 200 {
		t.Errorf("CONNECT: %d", resp.StatusCode)
		return ""
	}
	write(t, tun, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
	return readN(t, tun, len(head)+9)[len(head):]
}

// routesBy are routes that the field X-Route of a request chooses.
func routesBy(routes map[string]string) (egress string) {
	for name, body := range routes {
		matcher := "match header X-Route " + name + "\n"
		if name == "" {
			continue // the last
		}
		egress += "route {\n" + matcher + body + "\n}\n"
	}
	return egress + "route {\n" + routes[""] + "\n}\n"
}

// A route that leaves directly has local addresses of its own, for exchanges and
// tunnels; without them it has those of the transport. Pooled connections are shared
// by routes with the same addresses, and only by them.
func TestRouteSource_Direct(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin := sourceOrigin(t)
		routes := routesBy(map[string]string{
			"one":  "to direct\nlocal_address 127.0.0.4",
			"same": "to direct\nlocal_address 127.0.0.4",
			"two":  "to direct\nlocal_address 127.0.0.5 127.0.0.6",
			"":     "to direct",
		})
		for transport, other := range map[string]string{"": "127.0.0.1", "transport {\n local_address 127.0.0.3\n}\n": "127.0.0.3"} {
			before := origin.count()
			p := start(t, m, setup{egress: usual + transport + routes})
			eachClient(t, p, func(t *testing.T, c *client) {
				for range 3 {
					for route, want := range map[string]string{"one": "127.0.0.4", "same": "127.0.0.4", "two": "127.0.0.5", "": other} {
						r := c.newRequest(t, "GET", origin.url("/"), nil)
						r.Header.Set("X-Route", route)
						c.do(t, r).expect(t, 200, want)
					}
				}
			})
			if n := origin.count() - before; n != 3 {
				t.Errorf("%d connections, want one for each of three sources", n)
			}
			eachClient(t, p, func(t *testing.T, c *client) {
				for route, want := range map[string]string{"one": "127.0.0.4", "same": "127.0.0.4", "": other} {
					if got := c.sourceOf(t, origin, http.Header{"X-Route": {route}}); got != want {
						t.Errorf("tunnel of route %q from %s, want %s", route, got, want)
					}
				}
				seen := map[string]bool{}
				for range 2 {
					seen[c.sourceOf(t, origin, http.Header{"X-Route": {"two"}})] = true
				}
				if !seen["127.0.0.5"] || !seen["127.0.0.6"] || len(seen) != 2 {
					t.Errorf("two tunnels of the pool from %v", seen)
				}
			})
		}
	})
}

// A reload keeps the connections of a route's addresses for that route, wherever it
// stands now, and for no other.
func TestRouteSource_Reload(t *testing.T) {
	checkLeaks(t)
	origin := sourceOrigin(t)
	route := func(matcher, address string) string {
		return "route {\n match header X-Route " + matcher + "\n to direct\n local_address " + address + "\n}\n"
	}
	p := start(t, modes[0], setup{egress: usual + route("a", "127.0.0.4") + route("b", "127.0.0.5")})
	c := p.client(t, "h1")
	get := func(route, want string) {
		t.Helper()
		r := c.newRequest(t, "GET", origin.url("/"), nil)
		r.Header.Set("X-Route", route)
		c.do(t, r).expect(t, 200, want)
	}
	get("a", "127.0.0.4")
	get("b", "127.0.0.5")
	p.reload(t, setup{egress: usual + route("b", "127.0.0.4") + route("a", "127.0.0.5") + route("c", "127.0.0.6")})
	get("a", "127.0.0.5")
	get("b", "127.0.0.4")
	get("c", "127.0.0.6")
	if n := origin.count(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

// With user_hash users keep an address of the route's pool, also where the fallback
// of the route is what leaves directly.
func TestRouteSource_UserHash(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin := sourceOrigin(t)
		users := []string{"ada", "bob", "cy", "dee", "eve", "fay", "gus", "hal"}
		egress := "hosts proxy.test\n" + openLoopback
		for _, u := range users {
			egress += "basic_auth " + u + " pw\n"
		}
		const pool = "local_address 127.0.0.4 127.0.0.5 127.0.0.6 127.0.0.7 {\n pick user_hash\n}"
		p := start(t, m, setup{egress: egress + "destination_circuit off\ntransport {\n local_address 127.0.0.3\n}\nupstream http://" + refusedAddr(t) + "\n" + routesBy(map[string]string{
			"fallback": "to default fallback direct\n" + pool,
			"":         "to direct\n" + pool,
		})})
		from := map[string]string{}
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, route := range []string{"", "fallback", ""} {
				for _, u := range users {
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					r.Header.Set("Proxy-Authorization", basic(u, "pw"))
					r.Header.Set("X-Route", route)
					got := c.do(t, r)
					if got.StatusCode != 200 {
						t.Fatalf("%s, route %q: %d %s", u, route, got.StatusCode, got.body)
					}
					if before, ok := from[u]; ok && before != got.body {
						t.Errorf("%s comes from %s and from %s", u, before, got.body)
					}
					from[u] = got.body
				}
				if got := c.sourceOf(t, origin, http.Header{"Proxy-Authorization": {basic("ada", "pw")}, "X-Route": {route}}); got != from["ada"] {
					t.Errorf("route %q: tunnel from %s, exchanges from %s", route, got, from["ada"])
				}
			}
		})
		distinct := map[string]bool{}
		for _, a := range from {
			distinct[a] = a != "127.0.0.3"
		}
		if len(distinct) < 2 || distinct["127.0.0.3"] {
			t.Errorf("users come from %v", distinct)
		}
	})
}

// A connection that a client has authenticated is its own, but not for a route that
// leaves from elsewhere.
func TestRouteSource_Pinned(t *testing.T) {
	checkLeaks(t)
	origin := newRawOrigin(t, func(oc *originConn) {
		for {
			host, _, _ := net.SplitHostPort(oc.RemoteAddr().String())
			if oc.request().header.Get("Authorization") != "" {
				oc.send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM challenge\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			oc.ok(host)
		}
	})
	p := start(t, modes[0], setup{egress: usual + routesBy(map[string]string{
		"a": "to direct\nlocal_address 127.0.0.4", "": "to direct\nlocal_address 127.0.0.5",
	})})
	raw := p.dialPlain(t)
	ask := func(route, field string) *rawResponse {
		return raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nX-Route: "+route+"\r\n"+field+"\r\n")
	}
	if r := ask("a", "Authorization: NTLM hello\r\n"); r.StatusCode != 401 {
		t.Fatalf("challenge: %d", r.StatusCode)
	}
	for range 2 {
		for route, want := range map[string]string{"a": "127.0.0.4", "b": "127.0.0.5"} {
			if r := ask(route, ""); r.body != want {
				t.Errorf("route %s: from %s, want %s", route, r.body, want)
			}
		}
	}
	if n := origin.count(); n != 2 {
		t.Errorf("%d connections, want the pinned one and another", n)
	}
}

// Connections to an upstream are kept apart by user like those to origins, whether they
// leave from the transport's addresses or from the upstream's own.
func TestLocalAddress_UserHashUpstream(t *testing.T) {
	checkLeaks(t)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		host, _, _ := net.SplitHostPort(oc.RemoteAddr().String())
		oc.ok(host)
		return true
	})
	auth := "hosts proxy.test\n"
	users := []string{"ada", "bob", "cy", "dee", "eve", "fay", "gus", "hal"}
	for _, u := range users {
		auth += "basic_auth " + u + " pw\n"
	}
	const pool = "local_address 127.0.0.4 127.0.0.5 127.0.0.6 127.0.0.7 {\n pick user_hash\n}\n"
	for name, egress := range map[string]string{
		"transport": "upstream http://" + up.addr + "\ntransport {\n" + pool + "}\n",
		"upstream":  "upstream http://" + up.addr + " {\n" + pool + "}\ntransport {\n local_address 127.0.0.3\n}\n",
	} {
		c, before := start(t, modes[0], setup{egress: auth + egress}).client(t, "h1"), up.count()
		from, distinct := map[string]string{}, map[string]bool{}
		for i := range 3 * len(users) {
			u := users[i%len(users)]
			r := c.newRequest(t, "GET", "http://o.test/", nil)
			r.Header.Set("Proxy-Authorization", basic(u, "pw"))
			got := c.do(t, r)
			if from[u] != "" && from[u] != got.body || got.StatusCode != 200 {
				t.Errorf("%s: %s: %d, from %s and from %s", name, u, got.StatusCode, from[u], got.body)
			}
			from[u], distinct[got.body] = got.body, true
		}
		if n := up.count() - before; len(distinct) < 2 || n != len(distinct) || distinct["127.0.0.3"] {
			t.Errorf("%s: %d connections from %v", name, n, distinct)
		}
	}
}

// A route takes the addresses of a destination that it is to take, and no pooled
// connection to others; an upstream is dialed at those of its own that it is to be.
func TestPreferIP_RouteAndUpstream(t *testing.T) {
	origin := sourceOrigin(t)
	up := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		oc.ok("up")
		return true
	})
	_, port, _ := net.SplitHostPort(up.addr)
	parent := "http://up.test:" + port
	c := start(t, modes[0], setup{egress: usual + "transport {\n hosts_override up.test 127.0.0.1\n}\n" +
		"upstreams four {\n upstream " + parent + " {\n  prefer_ip 4_only\n }\n}\n" +
		"upstreams six {\n upstream " + parent + " {\n  prefer_ip 6_only\n }\n}\n" +
		routesBy(map[string]string{
			"4": "to direct\nprefer_ip 4_only", "6": "to direct\nprefer_ip 6_only",
			"up4": "to four", "up6": "to six", "": "to direct",
		})}).client(t, "h1")
	for range 2 {
		for _, tc := range []struct {
			route  string
			status int
			body   string
		}{
			{"4", 200, "127.0.0.1"}, {"", 200, "127.0.0.1"}, {"6", 502, ""}, {"up4", 200, "up"}, {"up6", 502, ""},
		} {
			r := c.newRequest(t, "GET", origin.url("/"), nil)
			r.Header.Set("X-Route", tc.route)
			got := c.do(t, r)
			if got.StatusCode != tc.status || tc.status == 200 && got.body != tc.body {
				t.Errorf("route %q: %d %q, want %d %q", tc.route, got.StatusCode, got.body, tc.status, tc.body)
			}
		}
	}
}
