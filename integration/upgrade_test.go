package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// This file contains the switch to another protocol within an exchange (RFC 9110 §7.8).

// askUpgrade sends a request that asks for a protocol, with bytes of that behind it.
func askUpgrade(c *rawConn, url, protocols, early string) {
	c.t.Helper()
	host := strings.SplitN(strings.SplitN(url, "://", 2)[1], "/", 2)[0]
	c.send("GET " + url + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: " + protocols + "\r\nX-End: to-end\r\n\r\n" + early)
}

// upgrading is the script of an origin that switches to "echo/1" where it is asked to, and
// says so together with the first bytes of it. What is asked for otherwise gets a 426.
func upgrading(saw chan<- *originRequest) func(oc *originConn) {
	return func(oc *originConn) {
		for {
			r := oc.request()
			saw <- r
			if r.header.Get("Upgrade") == "" {
				oc.send("HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nplea")
				continue
			}
			oc.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\nX-Origin: yes\r\n\r\nhello")
			if _, err := io.Copy(oc.Conn, oc.br); err == nil {
				_ = oc.Conn.(interface{ CloseWrite() error }).CloseWrite()
			}
			return
		}
	}
}

// expectEcho fails the test unless the connection was switched to the protocol of upgrading,
// and carries it: the bytes that came with the 101, those of the client that came too early,
// and much both ways. It returns when all but the end has come.
func expectEcho(t *testing.T, c *rawConn, early string) {
	t.Helper()
	head := c.head()
	if !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("head %q", head)
	}
	for name, want := range map[string]string{"Upgrade": "echo/1", "Connection": "Upgrade", "X-Origin": "yes"} {
		if got := headFields(head, name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"Transfer-Encoding", "Content-Length", "Server", "Alt-Svc"} {
		if got := headFields(head, name); len(got) > 0 {
			t.Errorf("%s: %q in a 101", name, got)
		}
	}
	if got := readN(t, c, 5+len(early)); got != "hello"+early {
		t.Fatalf("got %q", got)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	go func() { _, _ = io.WriteString(c.Conn, big) }()
	if got := readN(t, c, len(big)); got != big {
		t.Errorf("got other bytes back")
	}
}

// upgradesAgain waits until there is a place for an upgrade.
func upgradesAgain(t *testing.T, p *proxy, origin *rawOrigin) {
	t.Helper()
	eventually(t, "the place to come back", func() bool {
		c := p.dialPlain(t)
		defer c.Close()
		askUpgrade(c, origin.url("/"), "echo/1", "")
		return strings.HasPrefix(c.head(), "HTTP/1.1 101 ")
	})
}

// endEcho ends what expectEcho has left, each direction by itself.
func endEcho(t *testing.T, c *rawConn) {
	t.Helper()
	write(t, c.Conn, "last")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); string(rest) != "last" || err != nil {
		t.Errorf("the end: %q, %v", rest, err)
	}
}

func TestUpgrade_Direct_RFC9110_7_8(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n tls_insecure_skip_verify\n max_conns_per_host 1\n}\n"})
		for _, early := range []string{"", "early"} {
			eachH1(t, func(t *testing.T, kind string) {
				for _, scheme := range []string{"http", "https"} {
					saw := make(chan *originRequest, 64)
					origin := newRawOrigin(t, upgrading(saw))
					if scheme == "https" {
						origin = newRawTLSOrigin(t, upgrading(saw))
					}
					c := p.dialH1(t, kind)
					url := scheme + "://" + origin.addr + "/chat"
					askUpgrade(c, url, "h2c, echo/1, HTTP/2.0", early)
					r := await(t, saw, "the request")
					if got := r.fields("Upgrade"); len(got) != 1 || got[0] != "echo/1" {
						t.Errorf("the origin was asked for %q", got)
					}
					if got := r.fields("Connection"); len(got) != 1 || got[0] != "Upgrade" {
						t.Errorf("Connection: %q", got)
					}
					if r.header.Get("X-End") != "to-end" || r.target != "/chat" {
						t.Errorf("the origin got %q", r.head)
					}
					// The only connection that the pool may have is no longer its own.
					resp := p.dialH1(t, kind).roundTrip("GET", "GET "+url+" HTTP/1.1\r\nHost: "+origin.addr+"\r\n\r\n")
					if resp.StatusCode != 426 || len(headFields(resp.head, "Upgrade")) != 0 {
						t.Errorf("beside it: %q", resp.head)
					}
					expectEcho(t, c, early)
					endEcho(t, c)
					if m.access {
						line := p.logs.access(t, "GET", origin.addr)
						for line.num("status") != 101 {
							line = p.logs.wait(t, "the line of the tunnel", func(l logLine) bool {
								return l.isAccess() && l.num("status") == 101 && l.str("request.host") == origin.addr
							})
						}
						if up, down := int(line.num("egress.bytes_up")), int(line.num("egress.bytes_down")); up != 1<<20+4+len(early) || down != 5+1<<20+4+len(early) {
							t.Errorf("%d bytes up and %d down", up, down)
						}
						if line.str("egress.close_reason") == "" {
							t.Errorf("no reason in %v", line)
						}
					}
				}
			})
		}
	})
}

// A request with a body may ask as well: what is switched to begins behind the body.
func TestUpgrade_WithBody(t *testing.T) {
	p := startUsual(t, mode{access: true})
	saw := make(chan *originRequest, 1)
	origin := newRawOrigin(t, upgrading(saw))
	c := p.dialPlain(t)
	c.send("POST http://" + origin.addr + "/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nContent-Length: 4\r\n\r\nbody" + "early")
	if r := await(t, saw, "the request"); r.body != "body" {
		t.Errorf("the origin got %q", r.body)
	}
	expectEcho(t, c, "early")
	endEcho(t, c)
	line := p.logs.access(t, "POST", origin.addr)
	if read, up := int(line.num("bytes_read")), int(line.num("egress.bytes_up")); read != up || up != 4+5+1<<20+4 {
		t.Errorf("%d bytes read, %d bytes up", read, up)
	}
}

// An answer that is no 101 is the answer of an exchange, on a connection that lives on. A 426
// says what is wanted.
func TestUpgrade_Refused(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		saw := make(chan *originRequest, 64)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				r := oc.request()
				saw <- r
				if r.target == "/426" {
					oc.send("HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno")
					continue
				}
				oc.ok("plain")
			}
		})
		eachH1(t, func(t *testing.T, kind string) {
			c := p.dialH1(t, kind)
			for range 2 {
				askUpgrade(c, origin.url("/"), "websocket", "")
				if r := c.response("GET"); r.StatusCode != 200 || r.body != "plain" {
					t.Errorf("%q, %q", r.head, r.body)
				}
				askUpgrade(c, origin.url("/426"), "websocket", "")
				if r := c.response("GET"); r.StatusCode != 426 || r.Header.Get("Upgrade") != "other" {
					t.Errorf("%q", r.head)
				}
			}
		})
	})
}

// What asks for no switch, or for one that is never made, brings no Upgrade to the origin.
func TestUpgrade_NotAsked(t *testing.T) {
	p := startUsual(t, mode{access: true})
	origin, saw := recorder(t, okResponse)
	for _, head := range []string{
		"HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
		"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: HTTP/2.0\r\n\r\n",
		"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: web socket\r\n\r\n",
		"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade:\r\n\r\n",
		"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + strings.Repeat("a,", 17) + "a\r\n\r\n",
	} {
		c := p.dialPlain(t)
		c.send("GET http://" + origin.addr + "/ " + head)
		if r := c.response("GET"); r.StatusCode != 200 {
			t.Errorf("%q: %q", head, r.head)
		}
		r := await(t, saw, "the request")
		if len(r.fields("Upgrade"))+len(r.fields("Connection"))+len(r.fields("HTTP2-Settings")) > 0 {
			t.Errorf("%q became %q", head, r.head)
		}
	}
}

// A 101 that fits no request is none.
func TestUpgrade_Wrong101_RFC9110_15_2_2(t *testing.T) {
	p := startUsual(t, mode{access: true})
	for name, answer := range map[string]string{
		"no Upgrade":      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
		"another":         "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
		"one of them not": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1, other\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			origin, _ := recorder(t, answer)
			c := p.dialPlain(t)
			askUpgrade(c, origin.url("/"), "echo/1", "")
			r := c.response("GET")
			expectError(t, r.Response, 502, "http_protocol_error")
			if r.Header.Get("Upgrade") != "" {
				t.Errorf("%q", r.head)
			}
		})
	}
}

// An upgrade is a tunnel: it takes a slot before the origin is asked, and gives it back with
// the tunnel or with an answer that is no switch.
func TestUpgrade_Limits(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n max_tunnels 1\n}\n"})
		saw := make(chan *originRequest, 64)
		origin := newRawOrigin(t, upgrading(saw))
		refusing, _ := recorder(t, okResponse)
		for range 3 {
			c := p.dialPlain(t)
			askUpgrade(c, refusing.url("/"), "echo/1", "")
			if r := c.response("GET"); r.StatusCode != 200 {
				t.Fatalf("%q", r.head)
			}
		}
		first := p.dialPlain(t)
		askUpgrade(first, origin.url("/"), "echo/1", "")
		await(t, saw, "the request")
		second := p.dialPlain(t)
		askUpgrade(second, origin.url("/"), "echo/1", "")
		r := second.response("GET")
		expectError(t, r.Response, 503, "connection_limit_reached")
		if len(saw) > 0 {
			t.Error("the origin was asked although there was no place")
		}
		expectEcho(t, first, "")
		endEcho(t, first)
		upgradesAgain(t, p, origin)
	})
}

// Through upstreams of each kind, real ones: over a tunnel.
func TestUpgrade_RealPeers(t *testing.T) {
	for _, u := range realUpstreams {
		t.Run(u.name, func(t *testing.T) {
			checkLeaks(t)
			p := start(t, mode{access: true}, setup{egress: usual + u.start(t)})
			for range 2 {
				saw := make(chan *originRequest, 64)
				origin := newRawOrigin(t, upgrading(saw))
				for range 2 {
					c := p.dialPlain(t)
					askUpgrade(c, origin.url("/"), "echo/1", "")
					expectEcho(t, c, "")
					if got := len(saw); got != 1 {
						t.Errorf("the origin was asked %d times for one upgrade", got)
					}
					for len(saw) > 0 {
						<-saw
					}
				}
			}
		})
	}
}

// An upstream is asked for a tunnel, and for nothing in absolute form: what it would answer
// there with a 101 might be a connection to itself.
func TestUpgrade_NoTunnel(t *testing.T) {
	var absolute atomic.Int32
	u := newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		if r.method == "CONNECT" {
			oc.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
			return false
		}
		absolute.Add(1)
		oc.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\n\r\n")
		return true
	})
	p := start(t, mode{access: true}, setup{egress: usual + "upstream http://" + u.addr})
	for range 3 {
		c := p.dialPlain(t)
		askUpgrade(c, "http://127.0.0.1:9/", "echo/1", "")
		if r := c.response("GET"); r.StatusCode < 400 {
			t.Errorf("%q", r.head)
		}
	}
	if n := absolute.Load(); n > 0 {
		t.Errorf("the upstream was asked %d times in absolute form", n)
	}
}

// A place for a tunnel is given back with the head of an answer that is no switch, however
// long its body takes.
func TestUpgrade_PlaceOfARefusedOne(t *testing.T) {
	p := start(t, mode{access: true}, setup{egress: usual + "tunnel {\n max_tunnels 1\n}\n"})
	release := make(chan struct{})
	origin := newRawOrigin(t, func(oc *originConn) {
		oc.request()
		oc.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
		oc.hold(release)
		oc.send("lf")
	})
	c := p.dialPlain(t)
	askUpgrade(c, origin.url("/"), "echo/1", "")
	c.head()
	openEventually(t, p.client(t, "h1"), newEchoOrigin(t).addr, nil)
	close(release)
	if got := readN(t, c, 4); got != "half" {
		t.Errorf("got %q", got)
	}
}

// An upstream's limit for tunnels holds for upgrades.
func TestUpgrade_UpstreamLimit(t *testing.T) {
	p := start(t, mode{access: true}, setup{egress: usual + "upstream http://" +
		peertest.Squid(t, peers.SquidOptions{}).Addr + " {\n max_tunnels 1\n}\n"})
	saw := make(chan *originRequest, 64)
	origin := newRawOrigin(t, upgrading(saw))
	first := p.dialPlain(t)
	askUpgrade(first, origin.url("/"), "echo/1", "")
	if head := first.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("%q", head)
	}
	second := p.dialPlain(t)
	askUpgrade(second, origin.url("/"), "echo/1", "")
	if r := second.response("GET"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("over the limit: %q", r.head)
	}
	first.Close()
	upgradesAgain(t, p, origin)
}

// A client that leaves before the 101 leaves nothing behind, and one that the origin switches
// for in mid-request gets an error.
func TestUpgrade_ClientLeaves(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n max_tunnels 1\n}\n"})
		asked, ended := make(chan struct{}, 8), make(chan struct{}, 8)
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.request()
			asked <- struct{}{}
			_ = oc.awaitEnd()
			ended <- struct{}{}
		})
		c := p.dialPlain(t)
		askUpgrade(c, origin.url("/"), "echo/1", "")
		await(t, asked, "the request")
		c.abort()
		await(t, ended, "the end of the connection to the origin")
		early := newRawOrigin(t, func(oc *originConn) {
			oc.head()
			oc.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\n\r\n")
			_ = oc.awaitEnd()
		})
		eventually(t, "an answer", func() bool {
			c = p.dialPlain(t)
			c.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nContent-Length: 10\r\n\r\nhalf", early.url("/")))
			r := c.response("POST")
			return r.StatusCode == 502
		})
	})
}

// The rules that end tunnels end those of upgrades: by address, and by routes as they are for
// the method that has asked.
func TestUpgrade_PolicyChange(t *testing.T) {
	const closing = "tunnel {\n on_policy_change close\n}\n"
	p := start(t, mode{access: true}, setup{egress: usual + closing})
	saw := make(chan *originRequest, 64)
	origin := newRawOrigin(t, upgrading(saw))
	c := p.dialPlain(t)
	askUpgrade(c, origin.url("/"), "echo/1", "")
	expectEcho(t, c, "")
	p.reload(t, setup{egress: usual + closing + "route {\n match method CONNECT\n to deny\n}\nroute direct\n"})
	write(t, c.Conn, "still")
	if got := readN(t, c, 5); got != "still" {
		t.Errorf("got %q", got)
	}
	p.reload(t, setup{egress: usual + closing + "route {\n match method GET\n to deny\n}\nroute direct\n"})
	c.expectEnd()
}

// expectEnd waits for the end of a connection, however it ends.
func (c *rawConn) expectEnd() {
	c.t.Helper()
	if _, err := io.Copy(io.Discard, c.br); isTimeout(err) {
		c.t.Error("the connection is still open")
	}
}

// switchingUpstream is a proxy whose tunnels lead to an origin of its own, that plays a script
// for each, with the number of the tunnel. What it is asked in absolute form is counted, and
// would be switched.
func switchingUpstream(t *testing.T, script func(oc *originConn, tunnel int)) (u *fakeUpstream, absolute *atomic.Int32) {
	absolute = new(atomic.Int32)
	var tunnels atomic.Int32
	u = newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		if r.method != "CONNECT" {
			absolute.Add(1)
			oc.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\n\r\n")
			return false
		}
		oc.send("HTTP/1.1 200 OK\r\n\r\n")
		script(oc, int(tunnels.Add(1)))
		return false
	})
	return u, absolute
}

// Where a connection of the pool has ended, an upgrade is repeated through a tunnel again, and
// not in absolute form.
func TestUpgrade_StaleThroughUpstream(t *testing.T) {
	saw := make(chan *originRequest, 8)
	u, absolute := switchingUpstream(t, func(oc *originConn, tunnel int) {
		if tunnel == 1 {
			oc.request()
			oc.send("HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\nContent-Length: 4\r\n\r\nplea")
			oc.request() // which it does not answer
			return
		}
		upgrading(saw)(oc)
	})
	p := start(t, mode{access: true}, setup{egress: usual + "upstream http://" + u.addr})
	c := p.dialPlain(t)
	askUpgrade(c, "http://127.0.0.1:9/", "echo/1", "")
	if r := c.response("GET"); r.StatusCode != 426 {
		t.Fatalf("%q", r.head)
	}
	c = p.dialPlain(t)
	askUpgrade(c, "http://127.0.0.1:9/", "echo/1", "")
	expectEcho(t, c, "")
	if n := absolute.Load(); n > 0 {
		t.Errorf("the upstream was asked %d times in absolute form", n)
	}
	if r := await(t, saw, "the request"); r.target != "/" {
		t.Errorf("asked for %q", r.target)
	}
	endEcho(t, c)
}

// The place on an upstream is given back as well with the head of an answer that is no switch.
func TestUpgrade_UpstreamPlaceOfARefusedOne(t *testing.T) {
	release := make(chan struct{})
	u, _ := switchingUpstream(t, func(oc *originConn, tunnel int) {
		oc.request()
		if tunnel == 1 {
			oc.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
			oc.hold(release)
			oc.send("lf")
			return
		}
		oc.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\n\r\n")
		_ = oc.awaitEnd()
	})
	p := start(t, mode{access: true}, setup{egress: usual + "upstream http://" + u.addr + " {\n max_tunnels 1\n}\n"})
	c := p.dialPlain(t)
	askUpgrade(c, "http://127.0.0.1:9/", "echo/1", "")
	c.head()
	second := p.dialPlain(t)
	askUpgrade(second, "http://127.0.0.1:9/", "echo/1", "")
	if head := second.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Errorf("beside the body of a refused one: %q", head)
	}
	close(release)
	if got := readN(t, c, 4); got != "half" {
		t.Errorf("got %q", got)
	}
	// The place of the second one is still taken.
	third := p.dialPlain(t)
	askUpgrade(third, "http://127.0.0.1:9/", "echo/1", "")
	if r := third.response("GET"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("over the limit: %q", r.head)
	}
}

// Upstreams that have no place for a tunnel are passed over, as by CONNECT.
func TestUpgrade_FullUpstreamsArePassedOver(t *testing.T) {
	var with []string
	for range 4 {
		u, _ := switchingUpstream(t, func(oc *originConn, _ int) {
			oc.request()
			oc.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo/1\r\nConnection: Upgrade\r\n\r\n")
			_ = oc.awaitEnd()
		})
		with = append(with, u.addr+" {\n max_tunnels 2\n}")
	}
	p := start(t, mode{access: true}, setup{egress: group("lb_policy first", with...)})
	for i := range 8 {
		c := p.dialPlain(t)
		askUpgrade(c, "http://127.0.0.1:9/", "echo/1", "")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
			t.Fatalf("upgrade %d: %q", i+1, head)
		}
	}
	c := p.dialPlain(t)
	askUpgrade(c, "http://127.0.0.1:9/", "echo/1", "")
	if r := c.response("GET"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("over all limits: %q", r.head)
	}
}

// To routes an upgrade is an exchange: they find it by its field.
func TestUpgrade_DeniedByRoute(t *testing.T) {
	p := start(t, mode{access: true}, setup{egress: usual + "route {\n match header Upgrade *\n to deny\n}\nroute direct\n"})
	origin, saw := recorder(t, okResponse)
	c := p.dialPlain(t)
	for range 2 {
		askUpgrade(c, origin.url("/"), "echo/1", "")
		r := c.response("GET")
		expectError(t, r.Response, 403, "http_request_denied")
	}
	if len(saw) > 0 {
		t.Errorf("the origin was asked: %q", (<-saw).head)
	}
	if r := p.dialPlain(t).roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n"); r.StatusCode != 200 {
		t.Errorf("without the field: %q", r.head)
	}
}
