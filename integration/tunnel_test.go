package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// serverKinds are the protocol sets under which Caddy hands out different
// connections: with one version of HTTP alone a wrapper hides the TCP
// connection.
var serverKinds = []struct{ name, servers string }{
	{"all protocols", ""},
	{"protocols h1", "protocols h1"},
}

// A tunnel carries bytes both ways, and a FIN from either side leaves the
// other direction open: data after it still arrives (RFC 9110 §9.3.6,
// RFC 9113 §8.5; caddy #8026: half-close taken for a full close truncates).
func TestTunnel_HalfClose_RFC9113_8_5(t *testing.T) {
	for _, sk := range serverKinds {
		t.Run(sk.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{servers: sk.servers})
				kinds := clientKinds
				if sk.servers != "" {
					kinds = kinds[:2]
				}
				for _, kind := range kinds {
					t.Run(kind+" client first", func(t *testing.T) {
						sawEnd := make(chan string, 1)
						origin := newRawOrigin(t, func(oc *originConn) {
							oc.send("hello from the origin")
							b, err := io.ReadAll(oc.br)
							if err != nil {
								oc.fail("reading: %v", err)
							}
							sawEnd <- string(b)
							oc.send("after your end")
						})
						tun := p.client(t, kind).open(t, origin.addr)
						if got := readN(t, tun, 21); got != "hello from the origin" {
							t.Fatalf("got %q", got)
						}
						write(t, tun, "hello from the client")
						if err := tun.CloseWrite(); err != nil {
							t.Fatal(err)
						}
						if got := await(t, sawEnd, "the client's end at the origin"); got != "hello from the client" {
							t.Errorf("the origin got %q", got)
						}
						rest, err := io.ReadAll(tun)
						if string(rest) != "after your end" || err != nil {
							t.Errorf("got %q, %v after our end", rest, err)
						}
					})
					t.Run(kind+" origin first", func(t *testing.T) {
						got := make(chan string, 1)
						origin := newRawOrigin(t, func(oc *originConn) {
							oc.send("all I have")
							oc.closeWrite()
							b, err := io.ReadAll(oc.br)
							if err != nil {
								oc.fail("reading: %v", err)
							}
							got <- string(b)
						})
						tun := p.client(t, kind).open(t, origin.addr)
						if kind != "h2" {
							if all, err := io.ReadAll(tun); string(all) != "all I have" || err != nil {
								t.Fatalf("got %q, %v", all, err)
							}
						} else if all := readN(t, tun, 10); all != "all I have" {
							// A net/http handler cannot end its response
							// and go on reading; the end comes with ours.
							t.Fatalf("got %q", all)
						}
						write(t, tun, "after your end")
						if err := tun.CloseWrite(); err != nil {
							t.Fatal(err)
						}
						if s := await(t, got, "the client's end at the origin"); s != "after your end" {
							t.Errorf("the origin got %q after its end", s)
						}
						if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
							t.Errorf("the tunnel ended with %q, %v", rest, err)
						}
					})
				}
			})
		})
	}
}

// The 200 comes only when the connection stands, and has no body framing
// (RFC 9110 §9.3.6; goproxy #376, forwardproxy's Transfer-Encoding).
func TestTunnel_ResponseHead_RFC9110_9_3_6(t *testing.T) {
	for _, sk := range serverKinds {
		t.Run(sk.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{servers: sk.servers})
				origin := newEchoOrigin(t)
				eachH1(t, func(t *testing.T, kind string) {
					for _, version := range []string{"1.1", "1.0"} {
						raw := p.dialH1(t, kind)
						raw.send("CONNECT " + origin.addr + " HTTP/" + version + "\r\nHost: " + origin.addr + "\r\n\r\n")
						head := raw.head()
						if !strings.HasPrefix(head, "HTTP/1.1 200 ") && !strings.HasPrefix(head, "HTTP/1.0 200 ") {
							t.Fatalf("head %q", head)
						}
						for _, name := range []string{"Transfer-Encoding", "Content-Length", "Content-Type", "Connection", "Server", "Alt-Svc"} {
							if v := headFields(head, name); len(v) > 0 {
								t.Errorf("%s: %q in the answer to CONNECT", name, v)
							}
						}
						raw.send("ping")
						if got := readN(t, raw, 4); got != "ping" {
							t.Errorf("got %q", got)
						}
					}
				})
				if sk.servers != "" {
					return
				}
				for _, kind := range []string{"h2", "h3"} {
					t.Run(kind, func(t *testing.T) {
						resp, tun := p.client(t, kind).connect(t, origin.addr, "", nil)
						if resp.StatusCode != 200 {
							t.Fatalf("status %d", resp.StatusCode)
						}
						for _, name := range []string{"Content-Length", "Transfer-Encoding", "Content-Type", "Alt-Svc"} {
							if v := resp.Header.Values(name); len(v) > 0 {
								t.Errorf("%s: %q in the answer to CONNECT", name, v)
							}
						}
						alive(t, tun, "the tunnel")
					})
				}
			})
		})
	}
}

// RFC 9110 §9.3.6: Content-Length and Transfer-Encoding in a CONNECT mean
// nothing: what follows is tunnel.
func TestTunnel_RequestFramingIgnored_RFC9110_9_3_6(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newEchoOrigin(t)
		for _, field := range []string{"Content-Length: 4", "Content-Length: 0", "Transfer-Encoding: chunked"} {
			t.Run(field, func(t *testing.T) {
				raw := p.dialPlain(t)
				raw.send("CONNECT " + origin.addr + " HTTP/1.1\r\nHost: x\r\n" + field + "\r\n\r\n4\r\nping\r\n0\r\n\r\n")
				resp := raw.responseHead("CONNECT")
				if resp.StatusCode == 400 {
					raw.body(t, resp)
					raw.expectClosed()
					return // refusing is the other safe reading
				}
				if resp.StatusCode != 200 {
					t.Fatalf("status %d", resp.StatusCode)
				}
				want := "4\r\nping\r\n0\r\n\r\n"
				if got := readN(t, raw, len(want)); got != want {
					t.Errorf("through the tunnel came %q, want %q", got, want)
				}
			})
		}
	})
}

// Bytes that arrive together with the CONNECT are delivered, be it in one
// segment or more than a buffer full.
func TestTunnel_EarlyBytes(t *testing.T) {
	for _, sk := range serverKinds {
		t.Run(sk.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{servers: sk.servers})
				kinds := clientKinds
				if sk.servers != "" {
					kinds = kinds[:2]
				}
				for _, kind := range kinds {
					for _, size := range []int{1, 1000, 100_000} {
						t.Run(fmt.Sprintf("%s %d", kind, size), func(t *testing.T) {
							origin := newEchoOrigin(t)
							early := strings.Repeat("x", size-1) + "!"
							resp, tun := p.client(t, kind).connect(t, origin.addr, early, nil)
							if resp.StatusCode != 200 {
								t.Fatalf("status %d", resp.StatusCode)
							}
							if got := readN(t, tun, size); got != early {
								t.Errorf("%d early bytes came back changed", size)
							}
							write(t, tun, "more")
							if got := readN(t, tun, 4); got != "more" {
								t.Errorf("got %q", got)
							}
						})
					}
				}
			})
		})
	}
}

// Bytes that the origin sends at once, before the client says anything, come
// right behind the 200.
func TestTunnel_OriginSpeaksFirst(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.send("220 ready\r\n")
			_ = oc.awaitEnd()
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			tun := c.open(t, origin.addr)
			if got := readN(t, tun, 11); got != "220 ready\r\n" {
				t.Errorf("got %q", got)
			}
			tun.Close()
		})
	})
}

// Much data both ways at once arrives unchanged, spliced or copied.
func TestTunnel_Bulk(t *testing.T) {
	for _, sk := range serverKinds {
		t.Run(sk.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{servers: sk.servers})
				kinds := clientKinds
				if sk.servers != "" {
					kinds = kinds[:2]
				}
				data := bulk()
				for _, kind := range kinds {
					t.Run(kind, func(t *testing.T) {
						origin := newEchoOrigin(t)
						tun := p.client(t, kind).open(t, origin.addr)
						sent := make(chan error, 1)
						go func() {
							_, err := io.WriteString(tun, data)
							sent <- errors.Join(err, tun.CloseWrite())
						}()
						back, err := io.ReadAll(tun)
						if err != nil || string(back) != data {
							t.Errorf("%d bytes of %d came back, %v", len(back), len(data), err)
						}
						if err := await(t, sent, "the sender"); err != nil {
							t.Error(err)
						}
					})
				}
			})
		})
	}
}

// A reset stays a reset, both ways: a cut stream must not look complete
// (RFC 9113 §8.5, RFC 9114 §4.4).
func TestTunnel_Reset_RFC9114_4_4(t *testing.T) {
	for _, sk := range serverKinds {
		t.Run(sk.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{servers: sk.servers})
				kinds := clientKinds
				if sk.servers != "" {
					kinds = kinds[:2]
				}
				for _, kind := range kinds {
					t.Run(kind+" by the origin", func(t *testing.T) {
						now := make(chan struct{})
						origin := newRawOrigin(t, func(oc *originConn) {
							oc.send("begin")
							oc.hold(now)
							oc.reset()
						})
						tun := p.client(t, kind).open(t, origin.addr)
						if got := readN(t, tun, 5); got != "begin" {
							t.Fatalf("got %q", got)
						}
						close(now)
						if rest, err := io.ReadAll(tun); !isReset(err) {
							t.Errorf("the origin's reset arrived as %q, %v", rest, err)
						}
					})
					t.Run(kind+" by the client", func(t *testing.T) {
						ended := make(chan error, 1)
						origin := newRawOrigin(t, func(oc *originConn) {
							oc.send("begin")
							ended <- oc.awaitEnd()
						})
						tun := p.client(t, kind).open(t, origin.addr)
						if got := readN(t, tun, 5); got != "begin" {
							t.Fatalf("got %q", got)
						}
						tun.Abort()
						if err := await(t, ended, "the end at the origin"); !isTCPReset(err) {
							t.Errorf("the client's reset arrived as %v", err)
						}
					})
				}
			})
		})
	}
}

// A client that just goes away takes the tunnel with it.
func TestTunnel_ClientGone(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			ended := make(chan error, 1)
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.send("begin")
				ended <- oc.awaitEnd()
			})
			tun := c.open(t, origin.addr)
			readN(t, tun, 5)
			switch c.kind {
			case "h2":
				c.h2.Close()
			case "h3":
				_ = c.h3.CloseWithError(0x10c, "gone")
			default:
				tun.Close()
			}
			await(t, ended, "the end at the origin")
		})
	})
}

// upstream.md §3: a quiet tunnel ends after idle_timeout, in which bytes of
// either direction count.
func TestTunnel_IdleTimeout(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n idle_timeout 300ms\n}\n"})
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			ended := make(chan struct{})
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.send("begin")
				_ = oc.awaitEnd()
				close(ended)
			})
			tun := c.open(t, origin.addr)
			readN(t, tun, 5)
			await(t, ended, "the end at the origin")
			if _, err := io.ReadAll(tun); isTimeout(err) {
				t.Error("the client's side is still open")
			}
			if m.access {
				line := p.logs.access(t, "CONNECT", origin.addr)
				if got := line.str("egress.close_reason"); got != "idle" {
					t.Errorf("close_reason %q, want idle", got)
				}
			}
		})
	})
}

// A target that stays silent after the client's FIN does not keep the tunnel
// for ever (forwardproxy #33, #195; goproxy #451).
func TestTunnel_HalfCloseTimeout(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n half_close_timeout 300ms\n}\n"})
		for _, side := range []string{"client", "origin"} {
			eachClientAtOnce(t, p, func(t *testing.T, c *client) {
				t.Run(side, func(t *testing.T) {
					release := newGate()
					t.Cleanup(release.open)
					ended := make(chan struct{})
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.send("begin")
						if side == "origin" {
							oc.closeWrite()
						}
						_ = oc.awaitEnd()
						close(ended)
						if side == "client" {
							oc.hold(release.c) // never ends its own direction
						}
					})
					tun := c.open(t, origin.addr)
					readN(t, tun, 5)
					if side == "client" {
						if err := tun.CloseWrite(); err != nil {
							t.Fatal(err)
						}
					}
					await(t, ended, "the end at the origin")
					// The client that waits for the rest must not take what it got for all.
					_, err := io.ReadAll(tun)
					if side == "client" && !isReset(err) || side == "origin" && err != nil {
						t.Errorf("the client's side ended with %v", err)
					}
				})
			})
		}
	})
}

// tunnel { timeout } bounds the life of a busy tunnel.
func TestTunnel_Lifetime(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n timeout 400ms\n}\n"})
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			origin := newEchoOrigin(t)
			tun := c.open(t, origin.addr)
			for i := 0; ; i++ { // busy until it ends
				if _, err := io.WriteString(tun, "ping"); err != nil {
					break
				}
				if _, err := io.ReadFull(tun, make([]byte, 4)); err != nil {
					if isTimeout(err) || errors.Is(err, errDeadline) {
						t.Errorf("still open after %d rounds: %v", i, err)
					}
					break
				}
			}
		})
	})
}

// RFC 9931: after refusing a CONNECT the connection closes, and nothing
// behind the request is parsed; the body says why.
func TestTunnel_RefusedCloses_RFC9931(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		trap := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("smuggled") })
		behind := "GET " + trap.url("/") + " HTTP/1.1\r\nHost: x\r\n\r\n"
		for _, tc := range []struct {
			name, target string
			status       int
			typ          string
		}{
			{"policy", "10.0.0.1:443", 403, "destination_ip_prohibited"},
			{"refused", refusedAddr(t), 502, "connection_refused"},
			{"name", "no-such-name.invalid:443", 502, "dns_error"},
			{"no port", "127.0.0.1", 400, ""},
		} {
			eachH1(t, func(t *testing.T, kind string) {
				t.Run(tc.name, func(t *testing.T) {
					raw := p.dialH1(t, kind)
					raw.send("CONNECT " + tc.target + " HTTP/1.1\r\nHost: x\r\n\r\n" + behind)
					resp := raw.response("POST") // CONNECT's error has a body like any other's
					if tc.typ != "" {
						expectError(t, resp.Response, tc.status, tc.typ)
					} else if resp.StatusCode != tc.status {
						t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
					}
					if !resp.Close {
						t.Errorf("no Connection: close: %q", resp.head)
					}
					if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain") || resp.body == "" || len(resp.body) > 1000 {
						t.Errorf("body %q of type %q", resp.body, ct)
					}
					raw.expectClosed()
					if trap.count() > 0 {
						t.Error("the bytes behind the refused CONNECT were parsed")
					}
				})
			})
		}
	})
}

// On HTTP/2 and HTTP/3 a refusal ends its stream alone: other tunnels of the
// connection live on (forwardproxy's client closed them all).
func TestTunnel_RefusedStream_Multiplexed(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newEchoOrigin(t)
		for _, kind := range []string{"h2", "h3"} {
			t.Run(kind, func(t *testing.T) {
				c := p.client(t, kind)
				tun := c.open(t, origin.addr)
				resp, refused := c.connect(t, refusedAddr(t), "early", nil)
				expectError(t, resp, 502, "connection_refused")
				if b, err := io.ReadAll(refused); len(b) == 0 || err != nil {
					t.Errorf("body of the refusal: %q, %v", b, err)
				}
				alive(t, tun, "the tunnel")
				resp, _ = c.connect(t, "10.0.0.1:443", "", nil)
				expectError(t, resp, 403, "destination_ip_prohibited")
				write(t, tun, "pong")
				if got := readN(t, tun, 4); got != "pong" {
					t.Errorf("got %q", got)
				}
			})
		}
	})
}

// RFC 9112 §3.2.3: authority-form has a host and a port, and nothing else.
func TestTunnel_BadAuthority_RFC9112_3_2_3(t *testing.T) {
	targets := []string{
		"127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:99999999999999999999", "127.0.0.1:-1", "127.0.0.1:+80",
		"127.0.0.1: 80", "127.0.0.1:0x50", "127.0.0.1:80a", ":80", "user@127.0.0.1:80", "user:pw@127.0.0.1:80", "127.0.0.1:80/", "127.0.0.1:80/path",
		"127.0.0.1:80?q", "127.0.0.1:80#f", "http://127.0.0.1:80", "http://127.0.0.1:80/", "/", "/path", "*", "[::1", "::1:80", "[::1]80", "[::1]",
		"[127.0.0.1]:80", "[::1%25lo]:80", "127.0.0.1:80,127.0.0.2:80", "a b:80", "a\tb:80", "a\x01b:80", "a\\b:80", "%31:80", "127.0.0.1:80\x00",
	}
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		for _, target := range targets {
			t.Run(fmt.Sprintf("%q", target), func(t *testing.T) {
				raw := p.dialPlain(t)
				raw.send("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\nGET http://127.0.0.1:1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				resp := raw.response("POST")
				if resp.StatusCode != 400 {
					t.Errorf("status %d, want 400", resp.StatusCode)
				}
				raw.expectClosed()
			})
		}
		for _, kind := range []string{"h2", "h3"} {
			for _, target := range []string{"127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "user@127.0.0.1:80", "127.0.0.1:80/path"} {
				t.Run(kind+" "+target, func(t *testing.T) {
					c := p.client(t, kind)
					status, err := c.tryConnect(target)
					if err == nil && status != 400 {
						t.Errorf("status %d, want 400 or a stream error", status)
					}
					if errors.Is(err, errDeadline) {
						t.Errorf("no answer: %v", err)
					}
				})
			}
		}
	})
}

// A tunnel's access-log line is written when it ends, with its status, its
// bytes and how it ended; whatever the protocol, spliced or not.
func TestTunnel_AccessLog(t *testing.T) {
	for _, sk := range serverKinds {
		t.Run(sk.name, func(t *testing.T) {
			checkLeaks(t)
			p := start(t, mode{"logged", true}, setup{servers: sk.servers})
			kinds := clientKinds
			if sk.servers != "" {
				kinds = kinds[:2]
			}
			for _, kind := range kinds {
				t.Run(kind, func(t *testing.T) {
					origin := newRawOrigin(t, func(oc *originConn) {
						b := make([]byte, 300)
						if _, err := io.ReadFull(oc.br, b); err != nil {
							oc.fail("%v", err)
						}
						oc.send(strings.Repeat("d", 5000))
						_ = oc.awaitEnd()
					})
					tun := p.client(t, kind).open(t, origin.addr)
					write(t, tun, strings.Repeat("u", 300))
					readN(t, tun, 5000)
					mine := func(l logLine) bool { return l.str("request.host") == origin.addr }
					if early := p.logs.accessLines(mine); len(early) > 0 {
						t.Errorf("logged before the tunnel ended: %v", early)
					}
					if err := tun.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadAll(tun); err != nil {
						t.Fatal(err)
					}
					line := p.logs.access(t, "CONNECT", origin.addr)
					for field, want := range map[string]float64{"status": 200, "egress.bytes_up": 300, "egress.bytes_down": 5000} {
						if got := line.num(field); got != want {
							t.Errorf("%s is %v, want %v", field, got, want)
						}
					}
					if line.str("egress.close_reason") == "" || line.num("egress.duration") < 0 || line.num("duration") < 0 {
						t.Errorf("fields missing: %v", line)
					}
					if got := line.str("request.proto"); got == "" {
						t.Errorf("no protocol in %v", line)
					}
					if n := len(p.logs.accessLines(mine)); n != 1 {
						t.Errorf("%d lines for one tunnel", n)
					}
				})
			}
		})
	}
}

// close_reason tells who ended a tunnel and how.
func TestTunnel_CloseReason(t *testing.T) {
	checkLeaks(t)
	p := startUsual(t, mode{"logged", true})
	eachClient(t, p, func(t *testing.T, c *client) {
		reasons := map[string]string{}
		h1 := c.kind == "h1" || c.kind == "h1tls"
		for _, how := range []string{"client ends", "origin ends", "origin resets", "client resets"} {
			if how == "origin ends" && !h1 {
				continue // on a stream the client cannot see it, to end only then
			}
			go1 := make(chan struct{})
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.send("begin")
				switch how {
				case "origin ends":
					oc.hold(go1)
					return
				case "origin resets":
					oc.hold(go1)
					oc.reset()
				default:
					_ = oc.awaitEnd()
				}
			})
			tun := c.open(t, origin.addr)
			readN(t, tun, 5)
			close(go1)
			switch how {
			case "client ends":
				_ = tun.CloseWrite()
			case "client resets":
				tun.Abort()
			case "origin ends":
				_, _ = io.ReadAll(tun)
				_ = tun.CloseWrite()
			}
			_, _ = io.ReadAll(tun)
			line := p.logs.access(t, "CONNECT", origin.addr)
			reasons[how] = line.str("egress.close_reason")
			if line.num("duration") <= 0 || line.num("duration") < line.num("egress.duration") || line.num("status") != 200 || line.num("size") < 5 || line.at("resp_headers") == nil {
				t.Errorf("%s: %v", how, line)
			}
			if n := len(p.logs.accessLines(func(l logLine) bool { return l.str("request.host") == origin.addr })); n != 1 {
				t.Errorf("%s: %d lines", how, n)
			}
		}
		for how, want := range map[string]string{"client ends": "client", "origin ends": "origin"} {
			if got, ok := reasons[how]; ok && got != want {
				t.Errorf("%s: close_reason %q, want %q", how, reasons[how], want)
			}
		}
		for _, how := range []string{"origin resets", "client resets"} {
			if r := reasons[how]; r == "" || r == "idle" || r == "lifetime" || r == "policy" {
				t.Errorf("%s: close_reason %q", how, r)
			}
		}
	})
}

// body reads the rest of a response whose head was read.
func (c *rawConn) body(t *testing.T, resp *rawResponse) string {
	t.Helper()
	resp.Response.Request = &http.Request{Method: http.MethodGet}
	b, _ := io.ReadAll(io.LimitReader(c.br, max(resp.ContentLength, 0)))
	return string(b)
}

// What a client sends behind the end of the origin arrives, however much it is.
func TestTunnel_MuchBehindTheOriginsEnd(t *testing.T) {
	p := startUsual(t, mode{access: true})
	for _, kind := range []string{"h1", "h1tls", "h3"} {
		t.Run(kind, func(t *testing.T) {
			got := make(chan int, 1)
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.closeWrite()
				b, _ := io.ReadAll(oc.br)
				got <- len(b)
			})
			tun := p.client(t, kind).open(t, origin.addr)
			if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
				t.Fatalf("%q, %v", rest, err)
			}
			big := strings.Repeat("x", 8<<20)
			write(t, tun, big)
			if err := tun.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n := await(t, got, "the end at the origin"); n != len(big) {
				t.Errorf("%d bytes of %d", n, len(big))
			}
		})
	}
}

// Over HTTP/3 a tunnel whose origin has reset it is reset with H3_CONNECT_ERROR (RFC 9114
// §4.4), and one that has ended leaves no stream behind.
func TestTunnel_ConnectError_RFC9114_4_4(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			if _, err := oc.br.ReadString('\n'); err != nil {
				oc.fail("reading: %v", err)
			}
			oc.reset()
		})
		c := p.client(t, "h3")
		for range 300 { // more than the client may have open at a time
			tun := c.open(t, origin.addr)
			write(t, tun, "reset\n")
			_, err := io.ReadAll(tun)
			if e, ok := errors.AsType[*http3.Error](err); !ok || e.ErrorCode != http3.ErrCodeConnectError {
				t.Fatalf("reading: %v", err)
			}
		}
		echo := newEchoOrigin(t)
		for range 300 {
			tun := c.open(t, echo.addr)
			alive(t, tun, "the tunnel")
			if err := tun.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(tun); len(rest) > 0 || err != nil {
				t.Fatalf("the end: %q, %v", rest, err)
			}
		}
	})
}
