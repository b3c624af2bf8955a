package integration

import (
	"fmt"
	"strings"
	"testing"
)

// One connection serves request after request, of all clients.
func TestReuse_OneConnection(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for n := 1; ; n++ {
				oc.ok(fmt.Sprintf("%s %d", oc.request().body, n))
			}
		})
		n := 0
		eachClient(t, p, func(t *testing.T, c *client) {
			for range 3 {
				n++
				c.do(t, c.newRequest(t, "POST", origin.url("/"), strings.NewReader("body"))).expect(t, 200, fmt.Sprintf("body %d", n))
			}
		})
		if got := origin.count(); got != 1 {
			t.Errorf("%d connections for %d requests", got, n)
		}
	})
}

// Platform trap 4: the client's Connection: close is about its connection.
func TestReuse_ClientCloses_Trap4(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				if r := oc.request(); len(r.fields("Connection")) > 0 {
					oc.fail("Connection forwarded: %q", r.head)
				}
				oc.ok("done")
			}
		})
		eachH1(t, func(t *testing.T, kind string) {
			for _, head := range []string{" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", " HTTP/1.0\r\n\r\n"} {
				raw := p.dialH1(t, kind)
				if resp := raw.roundTrip("GET", "GET "+origin.url("/")+head); resp.StatusCode != 200 || resp.body != "done" || !resp.Close {
					t.Errorf("got %d %q, close %v", resp.StatusCode, resp.body, resp.Close)
				}
				raw.expectClosed()
			}
		})
		if got := origin.count(); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
	})
}

// The origin's Connection: close ends its connection, not the client's.
func TestReuse_OriginCloses_RFC9112_9_6(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.request()
			oc.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndone")
			_ = oc.awaitEnd() // the proxy must close though we do not
		})
		eachH1(t, func(t *testing.T, kind string) {
			raw := p.dialH1(t, kind)
			before := origin.count()
			for range 2 {
				resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if resp.StatusCode != 200 || resp.body != "done" || resp.Close {
					t.Errorf("got %d %q, close %v", resp.StatusCode, resp.body, resp.Close)
				}
			}
			if got := origin.count() - before; got != 2 {
				t.Errorf("%d connections for two requests, want 2", got)
			}
		})
	})
}

// Platform trap 9: a connection that the origin closed while it was idle is
// not used again, for any method.
func TestReuse_StaleConnection_Trap9(t *testing.T) {
	for _, how := range []string{"FIN", "RST", "unsolicited response", "408"} {
		t.Run(how, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				for _, method := range []string{"GET", "POST"} {
					eachClient(t, p, func(t *testing.T, c *client) {
						t.Run(method, func(t *testing.T) {
							spoil, spoilt := make(chan struct{}), make(chan struct{})
							origin := newRawOrigin(t, func(oc *originConn) {
								oc.request()
								oc.ok(fmt.Sprintf("from %d", oc.number))
								if oc.number > 1 {
									_ = oc.awaitEnd()
									return
								}
								oc.hold(spoil)
								switch how {
								case "FIN":
									oc.Close()
								case "RST":
									oc.reset()
								case "408":
									oc.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
									oc.Close()
								default:
									oc.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
								}
								close(spoilt)
								_ = oc.awaitEnd()
							})
							c.get(t, origin.url("/")).expect(t, 200, "from 1")
							close(spoil)
							await(t, spoilt, "the origin to spoil its connection")
							c.do(t, c.newRequest(t, method, origin.url("/"), nil)).expect(t, 200, "from 2")
						})
					})
				}
			})
		})
	}
}

// upstream.md §1, retries: a reused connection that dies after the request
// was written, before any byte of a response.
func TestRetry_ReusedConnectionDies(t *testing.T) {
	for _, how := range []string{"FIN", "RST"} {
		t.Run(how, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				for _, tc := range []struct {
					method, fields, body string
					retried              bool
				}{
					{"GET", "", "", true},
					{"HEAD", "", "", true},
					{"OPTIONS", "", "", true},
					{"DELETE", "", "", true},
					{"PUT", "Content-Length: 4\r\n", "body", true},
					{"POST", "Content-Length: 4\r\n", "body", false},
					{"POST", "Content-Length: 0\r\n", "", false},
					{"POST", "", "", false},
					{"POST", "Idempotency-Key: k\r\nContent-Length: 0\r\n", "", false}, // platform trap 3
					{"POST", "X-Idempotency-Key: k\r\n", "", false},
					{"PATCH", "Content-Length: 4\r\n", "body", false},
					{"PROPPATCH", "", "", false},
				} {
					t.Run(tc.method+" "+tc.fields, func(t *testing.T) {
						seen := make(chan int, 16)
						origin := newRawOrigin(t, func(oc *originConn) {
							for {
								r := oc.request()
								if r.target == "/warm" {
									oc.ok("warm")
									continue
								}
								seen <- oc.number
								if oc.number > 1 {
									oc.ok("second")
									continue
								}
								if how == "RST" {
									oc.reset()
								}
								return
							}
						})
						raw := p.dialPlain(t)
						raw.roundTrip("GET", "GET "+origin.url("/warm")+" HTTP/1.1\r\nHost: x\r\n\r\n")
						resp := raw.roundTrip(tc.method, tc.method+" "+origin.url("/x")+" HTTP/1.1\r\nHost: x\r\n"+tc.fields+"\r\n"+tc.body)
						if tc.retried {
							if resp.StatusCode != 200 || len(seen) != 2 {
								t.Errorf("status %d, seen %d times, want 200 and 2", resp.StatusCode, len(seen))
							}
							return
						}
						expectError(t, resp.Response, 502, "connection_terminated")
						if len(seen) != 1 {
							t.Errorf("the origin saw the request %d times", len(seen))
						}
					})
				}
			})
		})
	}
}

// One retry, not more.
func TestRetry_Once(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		seen := make(chan int, 16)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				if r := oc.request(); r.target != "/warm" {
					seen <- oc.number
					return
				}
				oc.ok("warm")
			}
		})
		raw := p.dialPlain(t)
		raw.roundTrip("GET", "GET "+origin.url("/warm")+" HTTP/1.1\r\nHost: x\r\n\r\n")
		resp := raw.roundTrip("GET", "GET "+origin.url("/x")+" HTTP/1.1\r\nHost: x\r\n\r\n")
		expectError(t, resp.Response, 502, "connection_terminated")
		if len(seen) != 2 {
			t.Errorf("the origin saw the request %d times, want 2", len(seen))
		}
	})
}

// A fresh connection that dies is never tried again.
func TestRetry_FreshConnectionDies(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			seen := make(chan string, 16)
			origin := newRawOrigin(t, func(oc *originConn) { seen <- oc.request().method })
			for _, method := range []string{"GET", "PUT", "POST"} {
				resp := c.do(t, c.newRequest(t, method, origin.url("/"), nil))
				expectError(t, resp.Response, 502, "connection_terminated")
				await(t, seen, "the request")
				if len(seen) > 0 {
					t.Errorf("the origin saw the %s again", method)
				}
			}
		})
	})
}

// A reused connection that dies in the middle of a response head is no stale
// connection: the origin has begun to answer.
func TestRetry_NotAfterResponseBegan(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		seen := make(chan int, 16)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				if r := oc.request(); r.target != "/warm" {
					seen <- oc.number
					oc.send("HTTP/1.1 200 OK\r\nX-Be")
					return
				}
				oc.ok("warm")
			}
		})
		raw := p.dialPlain(t)
		raw.roundTrip("GET", "GET "+origin.url("/warm")+" HTTP/1.1\r\nHost: x\r\n\r\n")
		resp := raw.roundTrip("GET", "GET "+origin.url("/x")+" HTTP/1.1\r\nHost: x\r\n\r\n")
		expectError(t, resp.Response, 502, "http_response_incomplete")
		if len(seen) != 1 {
			t.Errorf("the origin saw the request %d times, want 1", len(seen))
		}
	})
}
