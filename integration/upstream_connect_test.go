package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// newSOCKSUpstream starts a SOCKS5 proxy that tells what it was asked for, as
// type:address:port, and connects to `to` whatever that was.
func newSOCKSUpstream(t *testing.T, to string) (*rawOrigin, <-chan string) {
	t.Helper()
	asked := make(chan string, 100)
	read := func(oc *originConn, n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(oc.br, b); err != nil {
			runtime.Goexit()
		}
		return b
	}
	return newRawOrigin(t, func(oc *originConn) {
		read(oc, int(read(oc, 2)[1]))
		oc.send("\x05\x00")
		h := read(oc, 4)
		var host string
		switch h[3] {
		case 1:
			host = "ip:" + net.IP(read(oc, 4)).String()
		case 3:
			host = "name:" + string(read(oc, int(read(oc, 1)[0])))
		case 4:
			host = "ip:" + net.IP(read(oc, 16)).String()
		}
		port := read(oc, 2)
		asked <- fmt.Sprintf("%s:%d", host, int(port[0])<<8|int(port[1]))
		tunnelTo(oc, to, "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	}), asked
}

// socks5 resolves and checks here; socks5h leaves the name to the upstream, and its
// name alone is checked.
func TestUpstreamConnect_SOCKSNames(t *testing.T) {
	checkLeaks(t)
	origin, _ := recorder(t, okResponse)
	up, asked := newSOCKSUpstream(t, origin.addr)
	hosts := "transport {\n hosts_override good.test 127.0.0.1\n hosts_override evil.test 10.1.2.3\n}\n"
	for _, tc := range []struct{ scheme, dest, told string }{
		{"socks5", "good.test:80", "ip:127.0.0.1:80"},
		{"socks5", "evil.test:80", ""},
		{"socks5", "10.1.2.3:80", ""},
		{"socks5h", "good.test:80", "name:good.test:80"},
		{"socks5h", "evil.test:80", ""}, // its address is known without asking anybody
		{"socks5h", "other.test:80", "name:other.test:80"},
		{"socks5h", "localhost:80", ""},
		{"socks5h", "a.LOCALHOST.:80", ""},
		{"socks5h", "10.1.2.3:80", ""},
		{"socks5h", "denied.test:80", ""},
		{"socks5", "denied.test:80", ""},
	} {
		t.Run(tc.scheme+" "+tc.dest, func(t *testing.T) {
			egress := "allow_unauthenticated\nhosts proxy.test\nacl {\n deny denied.test\n allow 127.0.0.0/8\n}\n" + hosts +
				"upstream " + tc.scheme + "://" + up.addr
			p := start(t, mode{access: true}, setup{egress: egress})
			eachClient(t, p, func(t *testing.T, c *client) {
				before := up.count()
				resp, tun := c.connect(t, tc.dest, "", nil)
				if tc.told == "" {
					expectError(t, resp, 403, "http_request_denied", "destination_ip_prohibited")
					expectError(t, c.get(t, "http://"+tc.dest+"/").Response, 403, "http_request_denied", "destination_ip_prohibited")
					if up.count() != before {
						t.Error("the upstream was connected to")
					}
					return
				}
				if resp.StatusCode != 200 {
					t.Fatal(resp.Status)
				}
				if got := await(t, asked, "the request"); got != tc.told {
					t.Errorf("told %q, want %q", got, tc.told)
				}
				tun.Close()
				before = up.count()
				c.get(t, "http://"+tc.dest+"/").expect(t, 200, "ok")
				if up.count() != before {
					if got := await(t, asked, "the request"); got != tc.told {
						t.Errorf("told %q, want %q", got, tc.told)
					}
				}
			})
		})
	}
}

// A pooled tunnel to an address that other rules allowed is not used once the rules
// deny the address: the name alone does not say where it leads.
func TestUpstreamConnect_PooledTunnelIsChecked(t *testing.T) {
	checkLeaks(t)
	origin, _ := recorder(t, okResponse)
	up, _ := newSOCKSUpstream(t, origin.addr)
	config := func(acl string) setup {
		return setup{egress: "allow_unauthenticated\nhosts proxy.test\nacl {\n" + acl + "\n}\n" +
			"transport {\n hosts_override inside.test 10.1.2.3\n}\nupstream socks5://" + up.addr}
	}
	p := start(t, mode{}, config("allow 10.0.0.0/8"))
	p.client(t, "h1").get(t, "http://inside.test/").expect(t, 200, "ok")
	p = start(t, mode{}, config("allow 127.0.0.0/8"))
	expectError(t, p.client(t, "h1").get(t, "http://inside.test/").Response, 403, "destination_ip_prohibited")
	p = start(t, mode{}, config("allow 10.0.0.0/8\n deny 127.0.0.0/8"))
	p.client(t, "h1").get(t, "http://inside.test/").expect(t, 200, "ok")
}

// An upstream may be on a unix socket.
func TestUpstreamConnect_UnixSocket(t *testing.T) {
	checkLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveRaw(t, ln, func(oc *originConn) {
		for {
			if r := oc.request(); r.method == "CONNECT" {
				oc.send("HTTP/1.1 200 OK\r\n\r\nhello")
				_ = oc.awaitEnd()
				return
			}
			oc.ok("unix")
		}
	})
	p := start(t, mode{access: true}, setup{egress: group("", "http+unix://"+path)})
	eachClient(t, p, func(t *testing.T, c *client) {
		c.get(t, "http://o.test/").expect(t, 200, "unix")
		tun := c.open(t, "127.0.0.1:9")
		if got := readN(t, tun, 5); got != "hello" {
			t.Errorf("got %q", got)
		}
		tun.Close()
	})
	if got := p.logs.access(t, "CONNECT", "127.0.0.1:9").str("egress.upstream"); got != "http+unix://"+path {
		t.Errorf("upstream %q", got)
	}
}

// The PROXY protocol tells the client's address, and no connection serves two of them.
func TestUpstreamConnect_PROXYProtocol(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			checkLeaks(t)
			type seen struct {
				client string
				number int
			}
			saw := make(chan seen, 100)
			up := newRawOrigin(t, func(oc *originConn) {
				h, err := proxyproto.Read(oc.br)
				if err != nil {
					oc.fail("no PROXY header: %v", err)
				}
				for {
					r := oc.request()
					saw <- seen{h.SourceAddr.String(), oc.number}
					if r.method == "CONNECT" {
						oc.send("HTTP/1.1 200 OK\r\n\r\n")
						_ = oc.awaitEnd()
						return
					}
					oc.ok("ok")
				}
			})
			p := start(t, mode{}, setup{egress: group("", "http://"+up.addr+" {\n proxy_protocol "+version+"\n}")})
			from := func(ip string) *rawConn {
				conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).Dial("tcp", p.plain)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				return &rawConn{Conn: conn, t: t, br: bufio.NewReader(conn)}
			}
			numbers := map[int]string{}
			for _, ip := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2"} {
				c := from(ip)
				for range 2 {
					c.roundTrip("GET", "GET http://o.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
					s := await(t, saw, "the exchange")
					host, _, _ := net.SplitHostPort(s.client)
					if host != ip || numbers[s.number] != "" && numbers[s.number] != ip {
						t.Errorf("client %s arrived as %s on connection %d of %q", ip, s.client, s.number, numbers[s.number])
					}
					numbers[s.number] = ip
				}
				c = from(ip)
				c.send("CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n")
				c.responseHead("CONNECT")
				if s := await(t, saw, "the tunnel"); s.client != c.LocalAddr().String() || numbers[s.number] != "" {
					t.Errorf("client %s arrived as %s on connection %d", c.LocalAddr(), s.client, s.number)
				}
				c.Close()
			}
			if len(numbers) != 2 {
				t.Errorf("%d connections for the exchanges of two clients", len(numbers))
			}
		})
	}
}

// Header fields, credentials and the local address of an upstream; what the client
// sends of these goes no further.
func TestUpstreamConnect_OwnFields(t *testing.T) {
	checkLeaks(t)
	saw := make(chan *originRequest, 100)
	peer := make(chan string, 100)
	up := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		saw <- r
		peer <- oc.RemoteAddr().String()
		if r.method == "CONNECT" {
			oc.send("HTTP/1.1 200 OK\r\n\r\n")
			_ = oc.awaitEnd()
			return false
		}
		oc.ok("ok")
		return true
	})
	p := start(t, mode{}, setup{egress: group("", "http://alice:s%20cret@"+up.addr+" {\n header X-Zone here\n header X-Zone there\n local_address 127.0.0.7\n}")})
	eachClient(t, p, func(t *testing.T, c *client) {
		r := c.newRequest(t, "GET", "http://o.test/", nil)
		for name, value := range map[string]string{"X-Zone": "mine", "Proxy-Authorization": "Basic eDp5", "X-Else": "kept"} {
			r.Header.Set(name, value)
		}
		c.do(t, r).expect(t, 200, "ok")
		resp, tun := c.connect(t, "127.0.0.1:9", "", map[string][]string{"X-Zone": {"mine"}, "X-Else": {"kept"}})
		if resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		tun.Close()
		for _, else_ := range []string{"kept", ""} { // a tunnel's fields are for us
			r := await(t, saw, "the request")
			for name, want := range map[string]string{
				"X-Zone": "here,there", "Proxy-Authorization": "Basic YWxpY2U6cyBjcmV0", "X-Else": else_,
			} {
				if got := strings.Join(r.fields(name), ","); got != want {
					t.Errorf("%s: %s is %q, want %q", r.method, name, got, want)
				}
			}
			if from := await(t, peer, "its address"); !strings.HasPrefix(from, "127.0.0.7:") {
				t.Errorf("dialed from %s", from)
			}
		}
	})
}

// standby keeps connections dialed before the first request, and replaces those that
// are taken.
func TestUpstreamConnect_Standby(t *testing.T) {
	checkLeaks(t)
	up := newForwarder(t, "ok")
	echo := newEchoOrigin(t)
	p := start(t, mode{access: true}, setup{egress: group("", "http://"+up.addr+" {\n standby 2\n}")})
	for range 2 {
		await(t, up.conns, "a connection on standby")
	}
	if up.asked() != 0 {
		t.Error("they were used for something")
	}
	for range 3 {
		closeTunnel(t, p.client(t, "h1").open(t, echo.addr))
		await(t, up.conns, "the one that takes its place")
	}
	p.client(t, "h1").get(t, "http://o.test/").expect(t, 200, "ok")
	await(t, up.conns, "the one that takes its place")
	if n := up.count(); n != 6 {
		t.Errorf("%d connections, want 6", n)
	}
}

// max_conns holds for exchanges, max_pending for those that wait; more are refused
// at once, or go to another upstream, and nobody is charged.
func TestUpstreamConnect_MaxConns(t *testing.T) {
	checkLeaks(t)
	release, arrived := newGate(), make(chan struct{}, 100)
	up := newFakeUpstream(t, func(oc *originConn, _ *originRequest) bool {
		arrived <- struct{}{}
		oc.hold(release.c)
		oc.ok("A")
		return true
	})
	other := newForwarder(t, "B")
	limits := " {\n max_conns 1\n max_pending 1\n}"
	for _, second := range []bool{false, true} {
		upstreams := []string{"http://" + up.addr + limits}
		if second {
			upstreams = append(upstreams, other.addr)
			release = newGate()
		}
		p := start(t, mode{access: true}, setup{egress: group("lb_policy first\n", upstreams...)})
		c := p.client(t, "h1")
		first := c.goTry(c.newRequest(t, "GET", "http://o.test/1", nil))
		await(t, arrived, "the first request")
		var waiting <-chan answer
		var full *response
		for full == nil { // one of the two that come next waits, the other is refused
			results := make(chan answer, 2)
			for range 2 {
				go func() {
					r := c.goTry(c.newRequest(t, "GET", "http://o.test/2", nil))
					results <- <-r
				}()
			}
			full = await(t, results, "the one too many").must(t)
			waiting = results
		}
		if second {
			full.expect(t, 200, "B")
		} else {
			expectError(t, full.Response, 503, "connection_limit_reached")
		}
		release.open()
		await(t, first, "the first response").must(t).expect(t, 200, "A")
		await(t, waiting, "the second response").must(t).expect(t, 200, "A")
		await(t, arrived, "the one that waited")
		if strings.Contains(p.logs.all(), "circuit opened") {
			t.Error("the upstream was charged")
		}
	}
}

// Behind a group, a name is judged as a name: rules on addresses that come before say
// nothing about it, unless it is to be resolved here as well.
func TestUpstreamConnect_UnresolvedNames(t *testing.T) {
	checkLeaks(t)
	origin, _ := recorder(t, okResponse)
	up, _ := newSOCKSUpstream(t, origin.addr)
	http := newForwarder(t, "ok")
	const rules = "acl {\n allow 127.0.0.0/8\n deny all\n}\ntransport {\n hosts_override good.test 127.0.0.1\n}\n"
	for _, tc := range []struct {
		name, upstream, resolve string
		allowed                 bool
	}{
		{"socks5", "socks5://" + up.addr, "", false},
		{"socks5h", "socks5h://" + up.addr, "", false},
		{"http", "http://" + http.addr, "", false},
		{"http, resolved here as well", "http://" + http.addr, "resolve", true},
		{"socks5, resolved here as well", "socks5://" + up.addr, "resolve", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			acl := strings.Replace(rules, "deny all\n", "deny all\n"+tc.resolve+"\n", 1)
			p := start(t, mode{}, setup{egress: "allow_unauthenticated\nhosts proxy.test\n" + acl + "upstream " + tc.upstream})
			before := up.count() + http.count()
			c := p.client(t, "h1")
			resp, _ := c.connect(t, "good.test:80", "", nil)
			got := c.get(t, "http://good.test/")
			if tc.allowed {
				if resp.StatusCode != 502 && resp.StatusCode != 200 { // no name server for the fake one
					t.Errorf("%s %v", resp.Status, resp.Header)
				}
				got.expect(t, 200, "ok")
				return
			}
			expectError(t, resp, 403, "http_request_denied")
			expectError(t, got.Response, 403, "http_request_denied")
			if up.count()+http.count() != before {
				t.Error("an upstream was connected to")
			}
		})
	}
}

// A DNS server that is slow takes no time from the attempt through a socks5 upstream, whose
// names are looked up here.
func TestUpstreamConnect_SlowNames(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	up, _ := newSOCKSUpstream(t, echo.addr)
	names, answer := dnstest.Start(t), make(chan struct{})
	names.Set("slow.test", dnstest.Records{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, TTL: 60, SOA: 60, Wait: answer})
	p := start(t, mode{}, setup{egress: usual + "transport {\n resolvers " + names.Addr + "\n}\nupstreams default {\n upstream socks5://" + up.addr + "\n attempt_timeout 1s\n lb_retries off\n}\n"})
	time.AfterFunc(1500*time.Millisecond, func() { close(answer) }) // longer than the attempt may take: that is the test
	tun := p.client(t, "h1").open(t, "slow.test:"+port(echo.addr))
	alive(t, tun, "the tunnel")
	tun.Close()
}
