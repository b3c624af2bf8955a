package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// ours is the number of goroutines that the module has at work: handlers,
// uploads and relays.
func ours() (n int) {
	buf := make([]byte, 1<<20)
	for {
		size := runtime.Stack(buf, true)
		if size < len(buf) {
			buf = buf[:size]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for g := range strings.SplitSeq(string(buf), "\n\n") {
		if strings.Contains(g, "caddy-egress/egress.") || strings.Contains(g, "egress/internal/relay.") {
			n++
		}
	}
	return n
}

// awaitIdle waits until the module has no more goroutines at work than before.
// There is no event to wait for: they are to end by themselves.
func awaitIdle(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ours() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines of the module are left, %d were there before", ours(), before)
		}
	}
}

// poisonable is an origin that plays script on a connection that must never
// carry another request, the one with this number, and then reads from it until
// its end or until a victim's request has come. What it saw in the end is sent
// to the channel. Other connections are served by serve.
func poisonable(t *testing.T, number int, script, serve func(oc *originConn)) (*rawOrigin, <-chan string) {
	t.Helper()
	ended := make(chan string, 1)
	return newRawOrigin(t, func(oc *originConn) {
		if oc.number != number {
			serve(oc)
			return
		}
		script(oc)
		b := make([]byte, 4096)
		for {
			if _, err := oc.br.Read(b); err != nil || strings.Contains(oc.seen.String(), "/victim") {
				break
			}
		}
		ended <- oc.seen.String()
	}), ended
}

// safely answers whatever comes.
func safely(oc *originConn) {
	for {
		oc.request()
		oc.ok("safe")
	}
}

// take reads n bytes of a body, or ends the script.
func take(oc *originConn, n int) string {
	b := make([]byte, n)
	if _, err := io.ReadFull(oc.br, b); err != nil {
		runtime.Goexit()
	}
	return string(b)
}

// expectUnharmed sends the request of another client and holds the proxy to
// closing the connection that ended is about, and to not using it again.
func expectUnharmed(t *testing.T, p *proxy, origin *rawOrigin, ended <-chan string) (saw string) {
	t.Helper()
	victim := p.dialPlain(t)
	victim.send("GET " + origin.url("/victim") + " HTTP/1.1\r\nHost: x\r\nAuthorization: secret\r\n\r\n")
	if saw = await(t, ended, "the end of the connection"); strings.Contains(saw, "secret") {
		t.Fatalf("a victim's request went into what another one left open: %q", saw)
	}
	if resp := victim.response("GET"); resp.StatusCode != 200 || resp.body != "safe" {
		t.Errorf("the victim got %d %q", resp.StatusCode, resp.body)
	}
	return saw
}

// RFC 9114 §4.1.2: a body that is shorter than its Content-Length makes a
// request malformed. quic-go does not look; what such a request leaves behind on
// the origin's connection would be filled up with the next client's request.
func TestUpload_ShorterThanLength_H3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n response_header_timeout 5s\n}\n"})
		short := func(t *testing.T, origin *rawOrigin) (*response, error) {
			c := p.client(t, "h3")
			r := c.newRequest(t, "POST", origin.url("/"), io.NopCloser(strings.NewReader("hello")))
			r.ContentLength = 500
			a := await(t, c.goTry(r), "the client")
			return a.response, a.err
		}
		t.Run("origin waits", func(t *testing.T) {
			origin, ended := poisonable(t, 1, func(oc *originConn) { oc.head() }, safely)
			if resp, err := short(t, origin); err == nil && resp.StatusCode != 400 {
				t.Errorf("status %d, want 400 or a reset stream", resp.StatusCode)
			}
			if saw := expectUnharmed(t, p, origin, ended); !strings.HasSuffix(saw, "\r\n\r\n") && !strings.HasSuffix(saw, "\r\n\r\nhello") {
				t.Errorf("the origin saw %q", saw)
			}
		})
		// Whether the end of the body is seen before the answer is a matter of
		// luck, hence the repetitions.
		for range 5 {
			t.Run("early answer", func(t *testing.T) {
				origin, ended := poisonable(t, 1, func(oc *originConn) {
					oc.head()
					oc.ok("ok")
				}, safely)
				_, _ = short(t, origin) // the answer or an error, by the same luck
				expectUnharmed(t, p, origin, ended)
			})
		}
	})
}

// staleOnce is a script of an origin that breaks its first connection at its
// second request, a PUT, without having answered. Other connections go to rest.
func staleOnce(rest func(oc *originConn)) func(oc *originConn) {
	return func(oc *originConn) {
		if oc.number > 1 {
			rest(oc)
			return
		}
		oc.head()
		oc.ok("warm")
		oc.request()
	}
}

// putTwice sends a PUT with Expect that the proxy makes a second attempt for,
// and reads the 100 of the first.
func putTwice(t *testing.T, p *proxy, origin *rawOrigin, body string) *rawConn {
	t.Helper()
	raw := p.dialPlain(t)
	if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n"); resp.body != "warm" {
		t.Fatalf("got %d %q", resp.StatusCode, resp.body)
	}
	raw.send(fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n%s", origin.url("/"), len(body), body))
	if resp := raw.response("PUT"); resp.StatusCode != 100 {
		t.Fatalf("got %d, want 100", resp.StatusCode)
	}
	return raw
}

const expectSoon = usual + "transport {\n expect_continue_timeout 400ms\n}\n"

// RFC 9110 §10.1.1 in a second attempt: where it is refused, its connection is
// one on which the body was not sent, though the first attempt has read it.
func TestRetry_SecondAttemptRefusedExpect(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: expectSoon})
		origin, ended := poisonable(t, 2, func(oc *originConn) {
			oc.head()
			oc.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
		}, staleOnce(safely))
		if resp := putTwice(t, p, origin, strings.Repeat("b", 300)).response("PUT"); resp.StatusCode != 401 {
			t.Errorf("got %d, want 401", resp.StatusCode)
		}
		expectUnharmed(t, p, origin, ended)
	})
}

// A second attempt does not tell the client a second time to go on.
func TestRetry_ContinueSentOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: expectSoon})
		origin := newRawOrigin(t, staleOnce(func(oc *originConn) {
			oc.head()
			oc.send("HTTP/1.1 100 Continue\r\n\r\n")
			oc.ok("got " + take(oc, 5))
		}))
		if resp := putTwice(t, p, origin, "hello").response("PUT"); resp.StatusCode != 200 || resp.body != "got hello" {
			t.Errorf("got %d %q behind the 100", resp.StatusCode, resp.body)
		}
	})
}

// Anybody can ask for https on a port that does not speak TLS. The circuit that
// this opens is not that of the tunnels and plain requests of others.
func TestCircuit_TLSFailuresDoNotCloseTunnels(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit {\n failures 5\n window 1m\n open_for 1m\n max_open_for 1m\n}\n"})
		origin := newRawOrigin(t, func(oc *originConn) {
			if b, err := oc.br.Peek(1); err != nil || b[0] == 0x16 {
				oc.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				return
			}
			oc.request()
			oc.ok("in clear")
		})
		https := func() *http.Response {
			return p.dialPlain(t).roundTrip("GET", "GET https://"+origin.addr+"/ HTTP/1.1\r\nHost: x\r\n\r\n").Response
		}
		for range 5 {
			expectError(t, https(), 502, "tls_protocol_error")
		}
		expectError(t, https(), 503, "destination_unavailable")
		eachClient(t, p, func(t *testing.T, c *client) {
			resp, tun := c.connect(t, origin.addr, "", nil)
			if resp.StatusCode != 200 {
				t.Fatalf("CONNECT: %d %v", resp.StatusCode, resp.Header)
			}
			defer tun.Close()
			write(t, tun, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			if got := readN(t, tun, 15); got != "HTTP/1.1 200 OK" {
				t.Errorf("got %q", got)
			}
			c.get(t, origin.url("/")).expect(t, 200, "in clear")
		})
	})
}

// RFC 4559 §6: NTLM, and Negotiate that carries it, authenticate the connection.
// Nobody else gets one that may be somebody's.
func TestReuse_ConnectionAuthentication(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		for _, tc := range []struct {
			name, request, response string
			shared                  bool
		}{
			{"asked with NTLM", "Authorization: NTLM alice\r\n", "", false},
			{"asked with ntlm", "Authorization: ntlm alice\r\n", "", false},
			{"asked with Negotiate", "Authorization: Negotiate alice\r\n", "", false},
			{"answered with NTLM", "", "WWW-Authenticate: NTLM\r\n", false},
			{"answered with Negotiate", "", "WWW-Authenticate: negotiate alice==\r\n", false},
			{"answered with one of two lines", "", "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: NTLM\r\n", false},
			{"answered with one of a list", "", "WWW-Authenticate: Basic realm=\"x\", NTLM\r\n", false},
			{"asked with Basic", "Authorization: Basic YTpi\r\n", "", true},
			{"asked with Bearer", "Authorization: Bearer NTLM\r\n", "", true},
			{"answered with Basic", "", "WWW-Authenticate: Basic realm=\"Negotiate\"\r\n", true},
		} {
			eachH1(t, func(t *testing.T, kind string) {
				t.Run(tc.name, func(t *testing.T) {
					origin := newRawOrigin(t, func(oc *originConn) {
						for {
							answer := fmt.Sprintf("Content-Length: 1\r\n\r\n%d", oc.number)
							if strings.Contains(oc.head(), "/alice ") {
								answer = tc.response + answer
							}
							oc.send("HTTP/1.1 200 OK\r\n" + answer)
						}
					})
					// The proxy closes the client's connection when it is
					// done with that of the origin.
					connection := func(who, fields string) string {
						raw := p.dialH1(t, kind)
						resp := raw.roundTrip("GET", "GET "+origin.url("/"+who)+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+fields+"\r\n")
						raw.expectClosed()
						return resp.body
					}
					connection("carol", "") // leaves a connection to Alice
					alice, bob := connection("alice", tc.request), connection("bob", "")
					if (alice == bob) != tc.shared {
						t.Errorf("Alice was on connection %s, Bob on %s", alice, bob)
					}
				})
			})
		}
	})
}

// interim notes the informational responses to a request in their order.
func interim(r *http.Request) (*http.Request, <-chan int) {
	codes := make(chan int, 16)
	return r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			codes <- code
			return nil
		},
	})), codes
}

// The origin's 100 comes before the 103 that follows it, once and whole, though
// the body is read by another goroutine.
func TestExpect_ContinueBefore103(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		const hints = 3
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				oc.head()
				oc.send("HTTP/1.1 100 Continue\r\n\r\n" + strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", hints))
				take(oc, 5)
				oc.ok("ok")
			}
		})
		want := []int{100, 103, 103, 103, 200}
		for _, kind := range []string{"h1", "h1tls"} {
			t.Run(kind, func(t *testing.T) {
				var wg sync.WaitGroup
				for range 4 {
					raw := p.dialH1(t, kind)
					wg.Go(func() {
						for range 50 {
							raw.trySend("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
							var got []int
							for len(got) < len(want) {
								resp, err := http.ReadResponse(raw.br, nil)
								if err != nil {
									t.Errorf("got %d, then %v", got, err)
									return
								}
								_, _ = io.ReadAll(resp.Body)
								got = append(got, resp.StatusCode)
							}
							if !slices.Equal(got, want) {
								t.Errorf("got %d, want %d", got, want)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
		t.Run("h3", func(t *testing.T) {
			c := p.client(t, "h3")
			for range 20 {
				r := c.newRequest(t, "POST", origin.url("/"), strings.NewReader("hello"))
				r.Header.Set("Expect", "100-continue")
				r, codes := interim(r)
				c.do(t, r).expect(t, 200, "ok")
				var got []int
				for len(codes) > 0 {
					got = append(got, <-codes)
				}
				if !slices.Equal(got, want[:1+hints]) {
					t.Fatalf("got %d, want %d", got, want[:1+hints])
				}
			}
		})
	})
}

// A client that waits for the 100 gets it, once, in each protocol: the origin's,
// or ours where the origin is silent for too long.
func TestExpect_ContinueOnH3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for _, silent := range []bool{false, true} {
			t.Run(fmt.Sprintf("origin silent %v", silent), func(t *testing.T) {
				timeout := "1m"
				if silent {
					timeout = "50ms"
				}
				p := start(t, m, setup{egress: usual + "transport {\n expect_continue_timeout " + timeout + "\n}\n"})
				eachClient(t, p, func(t *testing.T, c *client) {
					origin := newRawOrigin(t, func(oc *originConn) {
						// On HTTP/2, net/http keeps the field from us, and
						// answers it itself.
						if head := oc.head(); !silent && len(headFields(head, "Expect")) > 0 {
							oc.send("HTTP/1.1 100 Continue\r\n\r\n")
						}
						oc.ok("got " + take(oc, 5))
					})
					if c.h1 != nil {
						c.h1.ExpectContinueTimeout = 2 * patience
					}
					pr, pw := io.Pipe()
					defer pw.Close()
					r := c.newRequest(t, "POST", origin.url("/"), pr)
					r.ContentLength = 5
					r.Header.Set("Expect", "100-continue")
					r, codes := interim(r)
					answer := c.goTry(r)
					if code := await(t, codes, "the 100"); code != 100 {
						t.Errorf("got %d, want 100", code)
					}
					write(t, pw, "hello")
					pw.Close()
					await(t, answer, "the answer").must(t).expect(t, 200, "got hello")
					for len(codes) > 0 {
						t.Errorf("another informational response: %d", <-codes)
					}
				})
			})
		}
	})
}

// net/http encodes an informational response of HTTP/2 in a goroutine that goes
// on when the client has reset the stream. What it encodes is not ours to change
// any more: Go ends the process for it.
func TestInformational_ResetWhileEncoding_H2(t *testing.T) {
	checkLeaks(t)
	p := startUsual(t, mode{"plain", false})
	var hint strings.Builder
	hint.WriteString("HTTP/1.1 103 Early Hints\r\n")
	for i := range 4500 {
		fmt.Fprintf(&hint, "A%d: b\r\n", i)
	}
	hint.WriteString("\r\n")
	origin := newRawOrigin(t, func(oc *originConn) {
		oc.head()
		for range 8 {
			oc.send(hint.String())
		}
		_ = oc.awaitEnd()
	})
	end := time.Now().Add(2500 * time.Millisecond)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				resetWithinHints(t, p, origin.addr, end)
			}
		})
	}
	wg.Wait()
	other, _ := recorder(t, okResponse)
	p.client(t, "h2").get(t, other.url("/")).expect(t, 200, "ok")
}

// resetWithinHints resets streams of one connection, each a little later within
// the first informational responses than the one before.
func resetWithinHints(t *testing.T, p *proxy, authority string, end time.Time) {
	f := p.dialFrames(t)
	defer f.conn.Close()
	go func() { _, _ = io.Copy(io.Discard, f.conn) }()
	_ = f.WriteWindowUpdate(0, 1<<30)
	for i := 0; i < 40 && time.Now().Before(end); i++ {
		var block bytes.Buffer
		enc := hpack.NewEncoder(&block)
		for _, kv := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", authority}, {":path", "/"}} {
			_ = enc.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1]})
		}
		stream := f.next
		f.next += 2
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}) != nil {
			return
		}
		time.Sleep(time.Duration(1+i*7%30) * time.Millisecond) // a place to hit, not something to wait for
		if f.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			return
		}
	}
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An origin that accepts and never reads holds an upload no longer than it may
// take to answer, whether the client is still there or not.
func TestUpload_OriginNeverReads(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n response_header_timeout 300ms\n}\n"})
		origin := newRawOrigin(t, func(oc *originConn) { <-oc.closed })
		before := ours()
		answers := map[string]<-chan answer{}
		for _, kind := range clientKinds {
			for _, length := range []int64{-1, 1 << 40} {
				c := p.client(t, kind)
				r := c.newRequest(t, "POST", origin.url("/"), zeros{})
				r.ContentLength = length
				answers[fmt.Sprintf("%s, length %d", kind, length)] = c.goTry(r)
			}
		}
		gone := p.dialPlain(t)
		gone.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
		_ = gone.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // by then, nothing moves
		_, _ = io.CopyN(gone.Conn, zeros{}, 1000000000)
		gone.abort()
		for name, result := range answers {
			if a := await(t, result, "the end of "+name); a.err == nil && a.StatusCode != 504 {
				t.Errorf("%s: status %d %v, want 504 or a broken connection", name, a.StatusCode, a.Header)
			}
		}
		awaitIdle(t, before)
	})
}

// The timeouts of the server are for requests: what a CONNECT says about a body
// does not end its tunnel.
func TestTunnel_ConnectWithContentLengthAndReadBody(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		const timeout = 200 * time.Millisecond
		p := start(t, m, setup{servers: "timeouts {\n read_body " + timeout.String() + "\n}\n"})
		origin := newEchoOrigin(t)
		tunnels := map[string]*rawConn{}
		for _, extra := range []string{"", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"} {
			for _, kind := range []string{"h1", "h1tls"} {
				raw := p.dialH1(t, kind)
				raw.send("CONNECT " + origin.addr + " HTTP/1.1\r\nHost: x\r\n" + extra + "\r\n")
				if head := raw.head(); strings.HasPrefix(head, "HTTP/1.1 200 ") {
					tunnels[fmt.Sprintf("%s %q", kind, extra)] = raw
				} else if !strings.HasPrefix(extra, "Transfer") { // which may be refused
					t.Errorf("%s %q: got %q", kind, extra, head)
				}
			}
		}
		silence := time.Now().Add(3 * timeout)
		for name, raw := range tunnels {
			_ = raw.SetReadDeadline(silence)
			if b, err := raw.br.ReadByte(); !isTimeout(err) {
				t.Errorf("%s: the silent tunnel brought %q, %v", name, b, err)
				continue
			}
			_ = raw.SetDeadline(time.Now().Add(patience))
			raw.send("hello")
			if got := readN(t, raw, 5); got != "hello" {
				t.Errorf("%s: got %q", name, got)
			}
		}
	})
}

// A site without `log` has no lines of tunnels either, also where metrics record
// every response and another site of the server is logged.
func TestTunnel_NotLoggedWhereSiteIsNot(t *testing.T) {
	checkLeaks(t)
	logs := newLogCapture(t)
	addr := freeAddr(t)
	global := globals{grace: "2s", storage: t.TempDir(), more: "metrics\n" + logs.asDefault()}
	load(t, fmt.Sprintf(`%[1]s
http://:%[2]s {
	bind 127.0.0.1
	egress {
		%[3]s
	}
}
http://localhost:%[2]s, http://logged.test:%[2]s {
	bind 127.0.0.1
	log
	egress {
		%[3]s
	}
}
`, global, port(addr), usual))
	before := ours()
	echo := newEchoOrigin(t)
	through := func(host string) {
		t.Helper()
		raw := dialRaw(t, addr, nil)
		raw.send("CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		if head := raw.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Fatalf("got %q", head)
		}
		closeTunnel(t, &tunnel{Reader: raw, Writer: raw.Conn, CloseWrite: raw.CloseWrite})
	}
	through(echo.addr)
	named := "localhost:" + port(echo.addr)
	through(named)
	awaitIdle(t, before) // whoever writes a line has written it
	logs.access(t, http.MethodConnect, named)
	for _, l := range logs.accessLines(func(logLine) bool { return true }) {
		if l.str("request.host") != named {
			t.Errorf("logged: %v", l)
		}
	}
	if n := len(logs.accessLines(func(l logLine) bool { return l.str("request.host") == named })); n != 1 {
		t.Errorf("%d lines for the tunnel of the logged site", n)
	}
}

// RFC 9110 §8.6: a response without content says nothing about the length that
// it would have had, unless the origin does.
func TestResponse_NoInventedLength_H3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, tc := range []struct{ name, method, head, want string }{
				{"HEAD chunked", "HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n", ""},
				{"HEAD without framing", "HEAD", "200 OK\r\n", ""},
				{"HEAD with length", "HEAD", "200 OK\r\nContent-Length: 5\r\n", "5"},
				{"304", "GET", "304 Not Modified\r\nEtag: \"x\"\r\n", ""},
				{"204", "GET", "204 No Content\r\n", ""},
			} {
				t.Run(tc.name, func(t *testing.T) {
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.head()
						oc.send("HTTP/1.1 " + tc.head + "\r\n")
						_ = oc.awaitEnd()
					})
					resp := c.do(t, c.newRequest(t, tc.method, origin.url("/"), nil))
					if got := strings.Join(resp.Header["Content-Length"], ", "); got != tc.want {
						t.Errorf("Content-Length %q, want %q", got, tc.want)
					}
					if resp.body != "" || resp.bodyErr != nil {
						t.Errorf("content %q, %v", resp.body, resp.bodyErr)
					}
				})
			}
		})
	})
}

// The user of a tunnel's line is whoever {http.auth.user.id} says it is, as in
// Caddy's own lines, also where another handler has found it out.
func TestTunnel_LogUserOfOtherAuth(t *testing.T) {
	checkLeaks(t)
	hash, err := bcrypt.GenerateFromPassword([]byte(thePassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, mode{"logged", true}, setup{
		global: "order basic_auth first",
		site:   fmt.Sprintf("basic_auth {\n %s %s\n}\n", theUser, hash),
	})
	eachClient(t, p, func(t *testing.T, c *client) {
		echo := newEchoOrigin(t)
		resp, tun := c.connect(t, echo.addr, "", http.Header{"Authorization": {basic(theUser, thePassword)}})
		if resp.StatusCode != 200 {
			t.Fatalf("CONNECT: %d %v", resp.StatusCode, resp.Header)
		}
		closeTunnel(t, tun)
		if got := p.logs.access(t, http.MethodConnect, echo.addr).str("user_id"); got != theUser {
			t.Errorf("user_id %q, want %q", got, theUser)
		}
	})
}
