package integration

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// RFC 9112 §6.1, §6.3, §5, §4, RFC 9110 §5.5: a response that can be read in
// two ways is not relayed: 502, nothing of it to the client, and its
// connection is never used again.
func TestResponse_Malformed_RFC9112_6_3(t *testing.T) {
	long := strings.Repeat("x", 9000)
	for _, tc := range []struct{ name, response string }{
		{"TE and CL", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"CL and TE", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"two CL", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"},
		{"CL list", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 5, 6\r\n\r\nhello!"},
		{"CL plus", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: +5\r\n\r\nhello"},
		{"CL minus", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: -5\r\n\r\nhello"},
		{"CL hex", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0x5\r\n\r\nhello"},
		{"CL empty", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length:\r\n\r\nhello"},
		{"CL space", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 1 0\r\n\r\nhello"},
		{"CL huge", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 99999999999999999999\r\n\r\nhello"},
		{"TE not chunked", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: gzip\r\n\r\nhello"},
		{"TE chunked not last", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"TE chunked twice", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"TE two lines", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"TE odd", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"TE vertical tab", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"TE on 1.0", "HTTP/1.0 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"},
		{"bare CR in value", "HTTP/1.1 200 OK\r\nX-Evil: 1\rX-More: 2\r\nContent-Length: 5\r\n\r\nhello"},
		{"bare CR in name", "HTTP/1.1 200 OK\r\nX-\rEvil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"bare CR in status", "HTTP/1.1 200 OK\rX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"space in a name", "HTTP/1.1 200 OK\r\nX Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"two CL, one with a space", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\nContent-Length : 6\r\n\r\nhello!"},
		{"obs-fold", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\n folded\r\nContent-Length: 5\r\n\r\nhello"},
		{"obs-fold tab", "HTTP/1.1 200 OK\r\nX-Evil: 1\r\n\tfolded\r\nContent-Length: 5\r\n\r\nhello"},
		{"fold before the first field", "HTTP/1.1 200 OK\r\n X-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"no colon", "HTTP/1.1 200 OK\r\nX-Evil\r\nContent-Length: 5\r\n\r\nhello"},
		{"empty name", "HTTP/1.1 200 OK\r\n: X-Evil\r\nContent-Length: 5\r\n\r\nhello"},
		{"bad name", "HTTP/1.1 200 OK\r\nX(Evil): 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"NUL in value", "HTTP/1.1 200 OK\r\nX-Evil: 1\x002\r\nContent-Length: 5\r\n\r\nhello"},
		{"NUL in name", "HTTP/1.1 200 OK\r\nX-\x00Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"no version", "200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"HTTP/0.9", "<html>hello</html>\r\n\r\n"},
		{"HTTP/2", "HTTP/2.0 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"ICY", "ICY 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"lower case version", "http/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"two digits", "HTTP/1.1 20 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"four digits", "HTTP/1.1 2000 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"status 099", "HTTP/1.1 099 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"status +20", "HTTP/1.1 +20 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"two spaces", "HTTP/1.1  200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"garbage in front", "\x00\x01\x02HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\nhello"},
		{"TLS alert", "\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"},
		{"header too long", "HTTP/1.1 200 OK\r\nX-Evil: " + long + "\r\nContent-Length: 5\r\n\r\nhello"},
		{"too many headers", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Evil: 1\r\n", 900) + "Content-Length: 5\r\n\r\nhello"},
		{"malformed 1xx", "HTTP/1.1 103 Early Hints\r\nX(Evil): 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		{"1xx with length", "HTTP/1.1 103 Early Hints\r\nX-Evil: 1\r\nContent-Length: 43\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5 , 6\r\n\r\nhello"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{egress: usual + "transport {\n max_response_header 8KiB\n}\n"})
				ended := make(chan struct{}, 16)
				origin := newRawOrigin(t, func(oc *originConn) {
					if oc.request().target == "/good" {
						oc.ok("good")
						return
					}
					oc.send(tc.response)
					_ = oc.awaitEnd() // open until the proxy closes it
					ended <- struct{}{}
				})
				raw := p.dialPlain(t)
				resp := raw.roundTrip("GET", "GET "+origin.url("/bad")+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if resp.StatusCode == 103 && tc.name == "1xx with length" {
					resp = raw.response("GET")
				}
				types := []string{"http_protocol_error", "http_response_transfer_coding", "http_response_content_coding"}
				if strings.HasPrefix(tc.name, "header too long") || strings.HasPrefix(tc.name, "too many") {
					types = []string{"http_response_header_section_size", "http_response_header_size"}
				}
				expectError(t, resp.Response, 502, types...)
				if strings.Contains(resp.head, "Evil") || strings.Contains(resp.body, "hello") || strings.Contains(resp.body, "Evil") {
					t.Errorf("something of it was relayed: %.300q %.300q", resp.head, resp.body)
				}
				await(t, ended, "the end of the origin's connection")
				next := raw.roundTrip("GET", "GET "+origin.url("/good")+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if next.StatusCode != 200 || next.body != "good" || origin.count() != 2 {
					t.Errorf("the next request got %d %q on connection %d", next.StatusCode, next.body, origin.count())
				}
			})
		})
	}
}

// RFC 9112 §6.3, §8: a body cut short reaches the client visibly broken: the
// connection closed before its end, or the stream reset; never whole.
func TestResponse_Truncated_RFC9112_8(t *testing.T) {
	for _, tc := range []struct {
		name, response string
		reset          bool
	}{
		{"short length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", false},
		{"short length, reset", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", true},
		{"cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhello", false},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false},
		{"cut last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", false},
		{"cut trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: ", false},
		{"garbage chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n\r\n", false},
		{"negative chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n\r\n", false},
		{"huge chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nfffffffffffffffff\r\n\r\n", false},
		{"chunk longer than its size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n", false},
		{"chunk ended by LF", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", false},
		{"reset after close framing", "HTTP/1.1 200 OK\r\n\r\nhello", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				eachClient(t, p, func(t *testing.T, c *client) {
					got := make(chan struct{})
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.request()
						oc.send(tc.response)
						if tc.reset {
							oc.hold(got) // a reset may overtake what came before it
							oc.reset()
						}
					})
					resp, err := c.rt.RoundTrip(c.newRequest(t, "GET", origin.url("/"), nil))
					if err != nil {
						return // broken before the head: visible as well
					}
					defer resp.Body.Close()
					if resp.StatusCode == 502 {
						return
					}
					if tc.reset {
						readN(t, resp.Body, 5)
						close(got)
					}
					if b, err := io.ReadAll(resp.Body); err == nil {
						t.Errorf("the cut response arrived as whole: %q", b)
					}
				})
			})
		})
	}
}

// The end of a TLS connection without close_notify is a cut, where the end
// of the connection is the end of the body (RFC 9112 §9.8).
func TestResponse_TLSTruncated_RFC9112_9_8(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n tls_trust_pool file " + caFile(t) + "\n}\n"})
		origin := newRawTLSOrigin(t, func(oc *originConn) {
			oc.request()
			oc.send("HTTP/1.1 200 OK\r\n\r\nhello")
			closeWithoutNotify(oc)
		})
		raw := p.dialPlain(t)
		resp := raw.roundTrip("GET", "GET https://"+origin.addr+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp.StatusCode == 200 && resp.err == nil {
			t.Errorf("the cut response arrived as whole: %q", resp.body)
		}
	})
}

// Bytes behind a response kill the connection: they must not be the answer
// to somebody's next request.
func TestResponse_Surplus(t *testing.T) {
	poison := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for _, tc := range []struct{ name, method, response, body string }{
		{"behind length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"},
		{"behind chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"},
		{"behind 204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", ""},
		{"behind 304", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n", ""},
		{"body of HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", ""},
		{"body of 204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 100\r\n\r\n", ""},
	} {
		for _, apart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s apart=%v", tc.name, apart), func(t *testing.T) {
				eachMode(t, func(t *testing.T, m mode) {
					p := startUsual(t, m)
					now, sent := make(chan struct{}), make(chan struct{})
					ended := make(chan struct{}, 4)
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.request()
						switch {
						case oc.number > 1:
							oc.ok("clean")
						case apart:
							oc.send(tc.response)
							oc.hold(now)
							oc.send(poison)
							close(sent)
						default:
							oc.send(tc.response + poison)
							close(sent)
						}
						_ = oc.awaitEnd()
						ended <- struct{}{}
					})
					raw := p.dialPlain(t)
					resp := raw.roundTrip(tc.method, tc.method+" "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n")
					if resp.StatusCode == 502 && !apart && tc.name == "body of 204" {
						return // a 204 with a length is malformed
					}
					if resp.StatusCode >= 400 || resp.body != tc.body || resp.err != nil {
						t.Fatalf("got %d %q, %v", resp.StatusCode, resp.body, resp.err)
					}
					if apart {
						close(now)
					}
					await(t, sent, "the surplus")
					next := raw.roundTrip("GET", "GET "+origin.url("/next")+" HTTP/1.1\r\nHost: x\r\n\r\n")
					if next.StatusCode != 200 || next.body != "clean" {
						t.Errorf("the next request got %d %q", next.StatusCode, next.body)
					}
					await(t, ended, "the end of the poisoned connection")
				})
			})
		}
	}
}

// RFC 9112 §5.1: white space between name and colon is taken out of a response. As others
// may have read it in another way, the connection carries no other exchange.
func TestResponse_SpaceBeforeColon_RFC9112_5_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.request()
			oc.send("HTTP/1.1 200 OK\r\nx-spaced \t: 1\r\nContent-Length : 2\r\n\r\nok")
			_ = oc.awaitEnd()
		})
		for n := range 2 {
			resp := p.dialPlain(t).roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if !strings.Contains(resp.head, "\r\nX-Spaced: 1\r\n") || resp.StatusCode != 200 || resp.body != "ok" || origin.count() != n+1 {
				t.Errorf("got %q %q on connection %d", resp.head, resp.body, origin.count())
			}
		}
	})
}

// A response that turns out to be broken before anything of it was sent is a 502, for the
// log as well, and not a connection that ends without an answer: a client may take that
// for the usual end of an idle connection, and send its request again.
func TestResponse_BrokenBeforeAnythingWasSent(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tc := range []struct{ name, response string }{
		{"tab", head + "2\t\r\nok\r\n0\r\n\r\n"},
		{"LF", head + "2\nok\n0\n\n"},
		{"no number", head + "zz\r\nok\r\n"},
		{"second chunk", head + "2\r\nok\r\nzz\r\nok\r\n"},
		{"trailer", head + "0\r\nX Y: z\r\n\r\n"},
		{"trailer behind a chunk", head + "2\r\nok\r\n0\r\nX Y: z\r\n\r\n"},
		{"1xx before", "HTTP/1.1 103 Early Hints\r\n\r\n" + head + "zz\r\nok\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				eachClient(t, p, func(t *testing.T, c *client) {
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.request()
						oc.send(tc.response)
						_ = oc.awaitEnd()
					})
					resp := c.do(t, c.newRequest(t, "POST", origin.url("/broken"), strings.NewReader("amount=1")))
					expectError(t, resp.Response, 502, "http_protocol_error")
					if resp.Header.Get("X-Evil") != "" || origin.count() != 1 {
						t.Errorf("got %v after %d requests", resp.Header, origin.count())
					}
					if m.access {
						line := p.logs.wait(t, "the access log", func(l logLine) bool {
							return l.isAccess() && l.str("request.host") == origin.addr
						})
						if line.num("status") != 502 {
							t.Errorf("logged as %v", line.num("status"))
						}
					}
				})
			})
		})
	}
}

// A client of HTTP/1.0 without a length can tell a cut body only by a reset: neither a
// regular end of the connection nor TLS's closure alert may follow what it has got.
func TestResponse_TruncatedTo10(t *testing.T) {
	for _, response := range []string{
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
	} {
		eachMode(t, func(t *testing.T, m mode) {
			p := startUsual(t, m)
			eachH1(t, func(t *testing.T, kind string) {
				for _, upload := range []string{"", "Content-Length: 2\r\n\r\nab"} {
					seen := make(chan struct{})
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.request()
						oc.send(response)
						oc.hold(seen)
					})
					raw := p.dialH1(t, kind)
					request := "GET " + origin.url("/") + " HTTP/1.0\r\n\r\n"
					if upload != "" {
						request = "POST " + origin.url("/") + " HTTP/1.0\r\n" + upload
					}
					raw.send(request)
					resp := raw.responseHead("GET")
					if got := readN(t, raw.br, 5); got != "hello" || resp.StatusCode != 200 {
						t.Fatalf("got %q", got)
					}
					close(seen)
					if rest, err := io.ReadAll(raw.br); err == nil {
						t.Errorf("the part looks whole, with %q behind it", rest)
					}
				}
			})
		})
	}
}

// RFC 9112 §6.1: with HTTP/1.0 a Transfer-Encoding means nothing, and what follows may be
// the body that it was meant for: no request is read behind it.
func TestRequest_ChunksIn10_RFC9112_6_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				oc.ok(oc.request().target)
			}
		})
		eachH1(t, func(t *testing.T, kind string) {
			inner := "GET " + origin.url("/smuggled") + " HTTP/1.1\r\nHost: x\r\n\r\n"
			for _, dest := range []string{origin.url("/outer"), "http://10.0.0.1/"} {
				raw := p.dialH1(t, kind)
				resp := raw.roundTrip("POST", "POST "+dest+" HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"+inner)
				if strings.Contains(resp.head, "keep-alive") || strings.Contains(resp.body, "smuggled") {
					t.Errorf("got %q %q", resp.head, resp.body)
				}
				raw.expectClosed()
			}
		})
	})
}

// A field that is announced as a trailer, and is in the head, is no trailer until it comes
// as one.
func TestResponse_TrailersAreNotInvented(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			for tail, want := range map[string]string{"": "[]", "X-T: tail\r\n": "[tail]"} {
				origin := newRawOrigin(t, func(oc *originConn) {
					oc.request()
					oc.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T, X-U\r\nX-T: head\r\n\r\n1\r\nx\r\n0\r\n" + tail + "\r\n")
				})
				r := c.newRequest(t, "GET", origin.url("/"), nil)
				r.Header.Set("Te", "trailers")
				resp := c.do(t, r)
				if got := fmt.Sprint(resp.Trailer["X-T"]); got != want || resp.Header.Get("X-T") != "head" {
					t.Errorf("trailer %s, want %s; header %q", got, want, resp.Header.Get("X-T"))
				}
			}
		})
	})
}
