package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// withProxyProtocol makes Caddy take a PROXY protocol header, where there is
// one, on both servers.
const withProxyProtocol = "listener_wrappers {\n proxy_protocol {\n allow 127.0.0.0/8\n}\n tls\n}\n"

// shortIdle are Caddy's own idle timeouts, short enough to be waited for.
const shortIdle = "timeouts {\n read_body_idle 500ms\n write_idle 500ms\n}\n"

// design.md, fact 4: Caddy's own idle timeouts end no tunnel, in which both
// sides are silent for longer, before the first byte and after it.
func TestTunnel_OutlivesCaddysIdleTimeouts(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{servers: shortIdle})
		origin := newEchoOrigin(t)
		tunnels := map[string]*tunnel{}
		for _, kind := range clientKinds {
			tunnels[kind] = p.client(t, kind).open(t, origin.addr)
			tunnels[kind+" used"] = p.client(t, kind).open(t, origin.addr)
			alive(t, tunnels[kind+" used"], kind)
		}
		time.Sleep(1250 * time.Millisecond) // the silence itself is the test
		for kind, tun := range tunnels {
			write(t, tun, "pong")
			if got := readN(t, tun, 4); got != "pong" {
				t.Errorf("%s: got %q", kind, got)
			}
			if err := tun.CloseWrite(); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
				t.Errorf("%s: ended with %q, %v", kind, rest, err)
			}
		}
	})
}

// The same for exchanges with an origin that takes its time for the head, and
// within the body.
func TestExchange_OutlivesCaddysIdleTimeouts(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{servers: shortIdle})
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.request()
			time.Sleep(time.Second) // the silence itself is the test
			oc.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
			time.Sleep(time.Second)
			oc.send("world")
		})
		answers := map[string]<-chan answer{}
		for _, kind := range clientKinds {
			for _, method := range []string{"GET", "POST"} {
				c := p.client(t, kind)
				var body io.Reader
				if method == "POST" {
					body = strings.NewReader("body")
				}
				answers[kind+" "+method] = c.goTry(c.newRequest(t, method, origin.url("/"), body))
			}
		}
		for name, a := range answers {
			t.Run(name, func(t *testing.T) {
				await(t, a, "the response").must(t).expect(t, 200, "helloworld")
			})
		}
	})
}

// A tunnel behind a PROXY protocol listener works like any other: the client's
// address is that of the header, what comes in the segment of the header and
// of the CONNECT is not lost, ends and resets are passed on.
func TestTunnel_BehindProxyProtocol(t *testing.T) {
	const header = "PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"
	dial := func(t *testing.T, p *proxy, kind, first string) *rawConn {
		t.Helper()
		addr := p.plain
		if kind == "h1tls" {
			addr = p.secure
		}
		conn, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(longPatience))
		if kind == "h1tls" {
			if _, err := io.WriteString(conn, header); err != nil {
				t.Fatal(err)
			}
			conn = tls.Client(conn, clientTLS("http/1.1"))
		} else {
			first = header + first
		}
		raw := &rawConn{Conn: conn, t: t, br: bufio.NewReader(conn)}
		raw.send(first)
		return raw
	}
	for _, servers := range []string{withProxyProtocol, withProxyProtocol + "protocols h1\n"} {
		eachMode(t, func(t *testing.T, m mode) {
			p := start(t, m, setup{servers: servers})
			eachH1(t, func(t *testing.T, kind string) {
				t.Run("early bytes and half-close", func(t *testing.T) {
					origin := newEchoOrigin(t)
					early := strings.Repeat("early ", 20_000)
					raw := dial(t, p, kind, "CONNECT "+origin.addr+" HTTP/1.1\r\nHost: x\r\n\r\n"+early)
					if head := raw.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
						t.Fatalf("head %q", head)
					}
					if err := raw.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if all, err := io.ReadAll(raw); string(all) != early || err != nil {
						t.Errorf("%d of %d bytes came back, %v", len(all), len(early), err)
					}
					if m.access {
						if got := p.logs.access(t, "CONNECT", origin.addr).str("request.remote_ip"); got != "192.0.2.7" {
							t.Errorf("logged remote_ip %q", got)
						}
					}
				})
				t.Run("reset by the origin", func(t *testing.T) {
					now := make(chan struct{})
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.send("begin")
						oc.hold(now)
						oc.reset()
					})
					raw := dial(t, p, kind, "CONNECT "+origin.addr+" HTTP/1.1\r\nHost: x\r\n\r\n")
					raw.head()
					if got := readN(t, raw, 5); got != "begin" {
						t.Fatalf("got %q", got)
					}
					close(now)
					if rest, err := io.ReadAll(raw); !isReset(err) {
						t.Errorf("the origin's reset arrived as %q, %v", rest, err)
					}
				})
				t.Run("reset by the client", func(t *testing.T) {
					ended := make(chan error, 1)
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.send("begin")
						ended <- oc.awaitEnd()
					})
					raw := dial(t, p, kind, "CONNECT "+origin.addr+" HTTP/1.1\r\nHost: x\r\n\r\n")
					raw.head()
					readN(t, raw, 5)
					raw.abort()
					if err := await(t, ended, "the end at the origin"); !isTCPReset(err) {
						t.Errorf("the client's reset arrived as %v", err)
					}
				})
			})
		})
	}
}

// An HTTP/1.0 client may upload, and is never sent chunks (RFC 9112 §6.1, appendix C.2.2).
// It cannot keep its connection to a proxy (§9.3).
func TestExchange_HTTP10_RFC9112_9_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				r := oc.request()
				if r.target == "/chunked" {
					oc.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")
					continue
				}
				oc.ok(r.method + " " + r.body + " " + strings.Join(r.fields("Via"), ""))
			}
		})
		eachH1(t, func(t *testing.T, kind string) {
			const keep = " HTTP/1.0\r\nConnection: keep-alive\r\n"
			for _, body := range []string{"", "hello"} {
				method := "GET"
				fields := ""
				if body != "" {
					method, fields = "POST", "Content-Length: 5\r\n"
				}
				raw := p.dialH1(t, kind)
				resp := raw.roundTrip(method, method+" "+origin.url("/")+keep+fields+"\r\n"+body)
				if resp.StatusCode != 200 || !strings.HasPrefix(resp.body, method+" "+body+" 1.0 caddy") {
					t.Fatalf("got %d %q", resp.StatusCode, resp.body)
				}
				if strings.Contains(resp.head, "keep-alive") {
					t.Errorf("head %q", resp.head)
				}
				raw.expectClosed()
			}
			raw := p.dialH1(t, kind)
			resp := raw.roundTrip("GET", "GET "+origin.url("/chunked")+keep+"TE: trailers\r\n\r\n")
			if resp.body != "hello" || len(headFields(resp.head, "Transfer-Encoding")) > 0 || strings.Contains(resp.head, "keep-alive") {
				t.Errorf("got %q with head %q", resp.body, resp.head)
			}
			raw.expectClosed()

			raw = p.dialH1(t, kind)
			resp = raw.roundTrip("GET", "GET http://10.0.0.1/"+keep+"\r\n")
			expectError(t, resp.Response, 403, "destination_ip_prohibited")
			raw.expectClosed()
		})
		if n := origin.count(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// What follows an HTTP/1.0 request without a length may be a body that nobody has seen (RFC
// 9112 §6.1): a request that changes something does not leave without it.
func TestExchange_HTTP10Chunked_RFC9112_6_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				r := oc.request()
				oc.ok(r.method + " " + r.body)
			}
		})
		eachH1(t, func(t *testing.T, kind string) {
			for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "REPORT", "PROPFIND", "X-OWN"} {
				head := method + " " + origin.url("/") + " HTTP/1.0\r\n"
				resp := p.dialH1(t, kind).roundTrip(method, head+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
				expectError(t, resp.Response, 400, "http_request_error")
				resp = p.dialH1(t, kind).roundTrip(method, head+"Content-Length: 5\r\n\r\nhello")
				if resp.StatusCode != 200 || resp.body != method+" hello" {
					t.Errorf("%s: %d %q", method, resp.StatusCode, resp.body)
				}
				resp = p.dialH1(t, kind).roundTrip(method, head+"Content-Length: 0\r\n\r\n")
				if resp.StatusCode != 200 || resp.body != method+" " {
					t.Errorf("%s without a body: %d %q", method, resp.StatusCode, resp.body)
				}
			}
		})
	})
}

// Platform trap 1 with more behind the refusal than anybody would read: the
// client, which sends while it reads, gets its answer, and of what it sends
// nothing is taken for a request.
func TestUpload_LargeBehindRefusal_Trap1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := withAuth(t, m, false)
		trap := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("smuggled") })
		credentials := "Proxy-Authorization: " + basic(theUser, thePassword) + "\r\n"
		inner := "GET " + trap.url("/") + " HTTP/1.1\r\nHost: x\r\n" + credentials + "\r\n"
		body := bytes.Repeat([]byte(inner), 8<<20/len(inner))
		for _, tc := range []struct {
			name, request string
			status        int
		}{
			{"403", "POST http://10.0.0.1/ HTTP/1.1\r\nHost: x\r\n" + credentials, 403},
			{"407", "POST " + trap.url("/") + " HTTP/1.1\r\nHost: x\r\n", 407},
			{"407 to CONNECT", "CONNECT " + trap.addr + " HTTP/1.1\r\nHost: x\r\n", 407},
			{"403 to CONNECT", "CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: x\r\n" + credentials, 403},
		} {
			for _, framing := range []string{"Content-Length: 99999999\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"} {
				t.Run(tc.name+" "+framing[:7], func(t *testing.T) {
					eachH1(t, func(t *testing.T, kind string) {
						raw := p.dialH1(t, kind)
						sent := make(chan struct{})
						go func() {
							defer close(sent)
							_, _ = raw.Conn.Write([]byte(tc.request + framing))
							_, _ = raw.Conn.Write(body)
						}()
						resp := raw.response("POST")
						if resp.StatusCode != tc.status || !resp.Close || resp.err != nil {
							t.Errorf("got %d, close %v, %v", resp.StatusCode, resp.Close, resp.err)
						}
						rest, err := io.ReadAll(raw.br)
						if len(rest) > 0 || isTimeout(err) {
							t.Errorf("behind the answer came %.200q, %v", rest, err)
						}
						raw.Conn.Close()
						await(t, sent, "the sender")
						if trap.count() > 0 {
							t.Error("what was behind the refusal reached the origin")
						}
					})
				})
			}
		}
	})
}

// A name that leads to ourselves is a loop like our address.
func TestPolicy_LoopByName_RFC9110_7_6_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{bind6: true})
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, own := range []string{p.plain, p.secure} {
				for _, host := range []string{"localhost", "LOCALHOST.", "[::1]", "[::ffff:127.0.0.1]"} {
					target := host + ":" + port(own)
					expectError(t, c.get(t, "http://"+target+"/").Response, 508, "proxy_loop_detected")
					resp, tun := c.connect(t, target, "", nil)
					expectError(t, resp, 508, "proxy_loop_detected")
					tun.Close()
				}
			}
		})
	})
}
