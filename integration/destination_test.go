package integration

import (
	"fmt"
	"strings"
	"testing"
)

// spellings are ways to write the destinations that the routes below deny, which are
// reached where a route sees something else than what is dialed.
var spellings = []string{
	"intranet.example", "INTRANET.example", "intranet.example.", "IntraNet.Example.",
	"sub.corp.example", "sub.corp.example.",
	"127.0.0.1", "127.0.0.1.", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]",
	"xn--bcher-kva.example", "XN--BCHER-KVA.example.", "bücher.example", "BÜCHER.example", "１２７.0.0.1", "intranet。example", "ｉntranet.example",
}

// Matchers of routes see the destination as it is dialed, however the client writes it.
func TestRoutes_SeeWhatIsDialed(t *testing.T) {
	const names = "intranet.example sub.corp.example 127.0.0.1 xn--bcher-kva.example"
	matchers := map[string]string{
		"host": "host intranet.example *.corp.example 127.0.0.1 bücher.example",
		"header": "header Host intranet.example:PORT\n}\n to deny\n}\nroute {\n match {\n header Host sub.corp.example:PORT\n}\n to deny\n}\nroute {\n match {\n" +
			"header Host 127.0.0.1:PORT\n}\n to deny\n}\nroute {\n match {\n header Host xn--bcher-kva.example:PORT",
		"header_regexp": `header_regexp Host "^(intranet\.example|sub\.corp\.example|127\.0\.0\.1|xn--bcher-kva\.example):PORT$"`,
		"expression":    `expression "{http.request.host} in ['intranet.example', 'sub.corp.example', '127.0.0.1', 'xn--bcher-kva.example'] && {http.request.port} == PORT"`,
		"vars":          "vars {http.request.hostport} intranet.example:PORT sub.corp.example:PORT 127.0.0.1:PORT xn--bcher-kva.example:PORT",
		"labels":        `expression "{http.request.host.labels.0} in ['example', '1'] && {http.request.host.labels.1} in ['intranet', 'corp', '0', 'xn--bcher-kva']"`,
	}
	for name, matcher := range matchers {
		t.Run(name, func(t *testing.T) {
			checkLeaks(t)
			origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("reached") })
			egress := usual + "transport {\n"
			for _, n := range append(strings.Fields(names), "other.example") {
				if n != "127.0.0.1" {
					egress += "hosts_override " + n + " 127.0.0.1\n"
				}
			}
			egress += "}\nroute {\n match {\n" + strings.ReplaceAll(matcher, "PORT", port(origin.addr)) + "\n}\n to deny\n}\nroute direct\n"
			p := start(t, mode{"plain", false}, setup{egress: egress})
			for _, kind := range []string{"h1", "h2", "h3"} {
				for i, host := range spellings {
					destination := host + ":" + strings.Repeat("0", i%2) + port(origin.addr)
					for _, method := range []string{"CONNECT", "GET"} {
						if status := p.ask(t, kind, method, destination); status != 403 && status != 400 {
							t.Errorf("%s: %s %s: status %d", kind, method, destination, status)
						}
					}
				}
			}
			if n := origin.count(); n > 0 {
				t.Fatalf("the origin was connected to %d times", n)
			}
			// What is not denied is served.
			for _, kind := range []string{"h1", "h2", "h3"} {
				if status := p.ask(t, kind, "GET", "other.example.:"+port(origin.addr)); status != 200 {
					t.Errorf("%s: what is not denied: status %d", kind, status)
				}
			}
		})
	}
}

// ask returns the status of a request for a destination, written as it is; 400 where
// the server's library, or the client's, refuses it by itself.
func (p *proxy) ask(t *testing.T, kind, method, destination string) int {
	t.Helper()
	if kind == "h1" {
		requestTarget := destination
		if method != "CONNECT" {
			requestTarget = "http://" + destination + "/"
		}
		c := p.dialPlain(t)
		defer c.Close()
		return c.roundTrip("POST", method+" "+requestTarget+" HTTP/1.1\r\nHost: x\r\n\r\n").StatusCode
	}
	c := p.client(t, kind)
	if method == "CONNECT" {
		if status, err := c.tryConnect(destination); err == nil {
			return status
		}
		return 400
	}
	r := c.newRequest(t, method, "http://placeholder/", nil)
	r.URL.Host, r.Host = destination, destination
	if resp, err := c.try(r); err == nil {
		return resp.StatusCode
	}
	return 400
}

// Header settings of a route, and the origin, are told the destination as it is dialed.
func TestRoutes_HeadersShowWhatIsDialed(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin, seen := recorder(t, okResponse)
		egress := usual + "transport {\n hosts_override shop.example 127.0.0.1\n}\nroute {\n to direct\n" +
			"header_up X-Host {http.request.host}\n header_up X-Hostport {http.request.hostport}\n header_up X-Port {http.request.port}\n" +
			"header_up X-Label {http.request.host.labels.1}\n header_down X-Host {http.request.host}\n}\n"
		p := start(t, m, setup{egress: egress})
		eachClient(t, p, func(t *testing.T, c *client) {
			r := c.newRequest(t, "GET", "http://SHOP.example.:0"+port(origin.addr)+"/path", nil)
			resp := c.do(t, r)
			resp.expect(t, 200, "ok")
			hostport := "shop.example:" + port(origin.addr)
			got := await(t, seen, "the request")
			for field, want := range map[string]string{
				"Host": hostport, "X-Host": "shop.example", "X-Hostport": hostport, "X-Port": port(origin.addr), "X-Label": "shop",
			} {
				if value := got.header.Get(field); field != "Host" && value != want || field == "Host" && got.host != want {
					t.Errorf("%s: %q (Host %q), want %q", field, value, got.host, want)
				}
			}
			if h := resp.Header.Get("X-Host"); h != "shop.example" {
				t.Errorf("the response has X-Host %q", h)
			}
		})
	})
}

// Loggers by host go by the destination too; the line has what the client has written.
func TestAccessLog_HostsOfDestinations(t *testing.T) {
	for name, site := range map[string]string{"plain": "", "traced": "tracing\n"} { // which copies requests
		t.Run(name, func(t *testing.T) { testLoggersOfDestinations(t, site) })
	}
}

func testLoggersOfDestinations(t *testing.T, site string) {
	checkLeaks(t)
	other := newLogCapture(t)
	p := start(t, mode{"plain", false}, setup{
		site: site + fmt.Sprintf("log named {\n hostnames localhost\n output egress_capture %s\n format json\n}\n", other.id),
	})
	eachClient(t, p, func(t *testing.T, c *client) {
		origin, _ := recorder(t, okResponse)
		echo := newEchoOrigin(t)
		c.get(t, "http://LocalHost.:"+port(origin.addr)+"/").expect(t, 200, "ok")
		line := other.access(t, "GET", "LocalHost.:"+port(origin.addr))
		if line.str("logger") != "http.log.access.named" || line.at("status") != 200.0 || line.at("size") != 2.0 || line.str("egress.path") != "direct" {
			t.Errorf("logged as %v", line)
		}
		closeTunnel(t, c.open(t, "LocalHost.:"+port(echo.addr)))
		other.access(t, "CONNECT", "LocalHost.:"+port(echo.addr))
		for _, addr := range []string{origin.addr, echo.addr} {
			if n := len(other.accessLines(func(l logLine) bool { return strings.HasSuffix(l.str("request.host"), ":"+port(addr)) })); n != 1 {
				t.Errorf("%d lines, want 1", n)
			}
		}
	})
}
