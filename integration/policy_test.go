package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// closed is the default policy: nothing opens loopback or private addresses.
const closed = "allow_unauthenticated\nhosts proxy.test\n"

// SSRF by spelling (protocol.md): however a forbidden address is written, it
// is refused before a connection is made: 403 where it is an address, 400
// where it is none. The port is one that an origin listens on, so that a
// refusal that is missing shows as a connection.
func TestPolicy_Spellings(t *testing.T) {
	hosts := []string{
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "0x7F.0x0.0x0.0x1",
		"127.0.0.1.", "127.000.000.001", "0", "0.0.0.0", "127.255.255.254",
		"[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::FFFF:7F00:0001]",
		"[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::80ff:fffe]", "[::ffff:0:127.0.0.1]",
		"[fe80::1%25lo]", "[::1%25lo]", "localhost", "localhost.", "LOCALHOST", "LocalHost.", "localhost..",
		"10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "[fd00:ec2::254]", "[fe80::1]", "[fc00::1]",
		"224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "[ff02::1]", "[2001:db8::1]",
		"%6c%6f%63alhost", "127%2e0.0.1", "①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "ⓛocalhost", "example.com@127.0.0.1", "127.0.0.1\\@example.com",
	}
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: closed})
		origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("reached") })
		for _, host := range hosts {
			t.Run(host, func(t *testing.T) {
				target := host + ":" + port(origin.addr)
				want := func(how string, resp *http.Response) {
					t.Helper()
					// A name that Go or we take for one may fail to resolve.
					dns := strings.Contains(resp.Header.Get("Proxy-Status"), "dns_error")
					if resp.StatusCode != 403 && resp.StatusCode != 400 && !dns {
						t.Errorf("%s: status %d %v", how, resp.StatusCode, resp.Header)
					}
				}
				raw := p.dialPlain(t)
				want("CONNECT", raw.roundTrip("POST", "CONNECT "+target+" HTTP/1.1\r\nHost: x\r\n\r\n").Response)
				raw = p.dialPlain(t)
				want("GET", raw.roundTrip("GET", "GET http://"+target+"/ HTTP/1.1\r\nHost: x\r\n\r\n").Response)
				for _, kind := range []string{"h2", "h3"} {
					if kind == "h3" && strings.Contains(host, "@") {
						continue // quic-go's server drops it without an answer, and its client waits
					}
					// What the client's library or the server's refuses by
					// itself does not get through either.
					c := p.client(t, kind)
					if status, err := c.tryConnect(target); err == nil && status != 403 && status != 400 && status != 502 {
						t.Errorf("%s CONNECT: status %d", kind, status)
					}
					c = p.client(t, kind)
					r := c.newRequest(t, "GET", "http://placeholder/", nil)
					r.URL.Host, r.Host = target, target
					if resp, err := c.try(r); err == nil {
						if resp.StatusCode == 200 && resp.body == "reached" {
							t.Errorf("%s GET: reached", kind)
						}
					}
				}
				if n := origin.count(); n > 0 {
					t.Fatalf("the origin was connected to %d times", n)
				}
			})
		}
	})
}

// ports replaces the default, which is every port but 25; tricks with the
// way a port is written do not get past it.
func TestPolicy_Ports(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("ok") })
		other := newEchoOrigin(t)
		p := start(t, m, setup{egress: usual + "ports " + port(origin.addr) + " 8000-8001\n"})
		eachClient(t, p, func(t *testing.T, c *client) {
			c.get(t, origin.url("/")).expect(t, 200, "ok")
			expectError(t, c.get(t, other.url("/")).Response, 403, "http_request_denied")
			expectError(t, c.get(t, "http://127.0.0.1/").Response, 403, "http_request_denied")
			resp, tun := c.connect(t, other.addr, "", nil)
			expectError(t, resp, 403, "http_request_denied")
			tun.Close()
			resp, tun = c.connect(t, "127.0.0.1:443", "", nil)
			expectError(t, resp, 403, "http_request_denied")
			tun.Close()
		})
		if other.count() > 0 {
			t.Errorf("%d connections to a port that is not allowed", other.count())
		}
	})
	t.Run("default", func(t *testing.T) {
		eachMode(t, func(t *testing.T, m mode) {
			p := startUsual(t, m)
			resp := p.dialPlain(t).roundTrip("POST", "CONNECT 127.0.0.1:25 HTTP/1.1\r\nHost: x\r\n\r\n")
			expectError(t, resp.Response, 403, "http_request_denied")
		})
	})
}

// Rules about names decide before any name is resolved.
func TestPolicy_Names(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: closed + "acl {\n deny localhost *.denied.invalid exact.invalid\n allow 127.0.0.0/8\n}\n"})
		origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("ok") })
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, host := range []string{"localhost", "LOCALHOST", "localhost.", "a.denied.invalid", "A.B.Denied.Invalid.", "denied.invalid", "exact.invalid"} {
				target := host + ":" + port(origin.addr)
				expectError(t, c.get(t, "http://"+target+"/").Response, 403, "http_request_denied")
				resp, tun := c.connect(t, target, "", nil)
				expectError(t, resp, 403, "http_request_denied")
				tun.Close()
			}
			c.get(t, origin.url("/")).expect(t, 200, "ok")
			for _, host := range []string{"notdenied.invalid", "sub.exact.invalid"} {
				expectError(t, c.get(t, "http://"+host+"/").Response, 502, "dns_error")
			}
		})
	})
}

// A dial to a listener of this Caddy is a loop, unless an IP:port rule opens
// it; then Via tells the loop (RFC 9110 §7.6.3).
func TestPolicy_Loops_RFC9110_7_6_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, own := range []string{p.plain, p.secure} {
				expectError(t, c.get(t, "http://"+own+"/").Response, 508, "proxy_loop_detected")
				resp, tun := c.connect(t, own, "", nil)
				expectError(t, resp, 508, "proxy_loop_detected")
				tun.Close()
			}
		})
	})
	t.Run("opened", func(t *testing.T) {
		eachMode(t, func(t *testing.T, m mode) {
			// The address must be known before the configuration is: one
			// Caddy to learn a port from would not be the one that loops.
			p := startAt(t, m, func(plain string) string {
				return closed + fmt.Sprintf("acl {\n allow %s\n allow 127.0.0.0/8\n}\n", plain)
			})
			resp := p.dialPlain(t).roundTrip("GET", "GET http://"+p.plain+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
			// Opened on purpose, our own site answers in origin form: no loop.
			if resp.StatusCode == 508 {
				t.Errorf("an explicit rule did not open our own listener: %v", resp.Header)
			}
			// Through ourselves to ourselves: our Via is on the request already.
			via := headFields(resp.head, "Via")
			if len(via) == 0 {
				t.Errorf("no Via on the answer: %q", resp.head)
			}
			tun := dialRaw(t, p.plain, nil)
			tun.send("CONNECT " + p.plain + " HTTP/1.1\r\nHost: x\r\n\r\n")
			if head := tun.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
				t.Errorf("CONNECT to an opened listener: %q", head)
			}
		})
	})
}

// A request that carries our own Via comes from ourselves: nothing is
// forwarded. The Via of another instance, or of another name, is no loop.
func TestPolicy_ViaLoop_RFC9110_7_6_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		eachClient(t, p, func(t *testing.T, c *client) {
			c.get(t, origin.url("/")).expect(t, 200, "ok")
			ours := await(t, saw, "the request").fields("Via")
			for _, via := range [][]string{ours, {"1.1 other", ours[0]}, {ours[0] + ", 1.1 other"}} {
				r := c.newRequest(t, "GET", origin.url("/"), nil)
				r.Header["Via"] = via
				expectError(t, c.do(t, r).Response, 508, "proxy_loop_detected")
			}
			for _, via := range []string{"1.1 caddy", "1.1 caddy (0123456789abcdef)", "1.1 other"} {
				r := c.newRequest(t, "GET", origin.url("/"), nil)
				r.Header.Set("Via", via)
				c.do(t, r).expect(t, 200, "ok")
				await(t, saw, "the request")
			}
			if len(saw) > 0 {
				t.Errorf("%d loops were forwarded", len(saw))
			}
		})
	})
}
