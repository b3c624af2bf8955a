package integration

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// RFC 9110 §9: every method passes, with its target and its body.
func TestExchange_Methods_RFC9110_9(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Saw", r.Method+" "+r.RequestURI+" "+r.Host+" <"+string(b)+">")
			_, _ = io.WriteString(w, "answer")
		})
		host := strings.TrimPrefix(origin.URL, "http://")
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X-OWN"} {
				var body io.Reader
				sent := ""
				if method == "POST" || method == "PUT" || method == "PATCH" || method == "PROPFIND" {
					sent = "body of " + method
					body = strings.NewReader(sent)
				}
				resp := c.do(t, c.newRequest(t, method, origin.URL+"/p?q=1", body))
				want := "answer"
				if method == "HEAD" {
					want = ""
				}
				resp.expect(t, 200, want)
				if got, want := resp.Header.Get("X-Saw"), fmt.Sprintf("%s /p?q=1 %s <%s>", method, host, sent); got != want {
					t.Errorf("%s: the origin saw %q, want %q", method, got, want)
				}
				if method == "HEAD" && resp.Header.Get("Content-Length") != "6" {
					t.Errorf("HEAD: Content-Length %q, want 6", resp.Header.Get("Content-Length"))
				}
			}
		})
	})
}

// RFC 9112 §6.3: a response is framed by its status, method, length, chunks
// or the end of the connection, and arrives whole whichever it is.
func TestExchange_ResponseFraming_RFC9112_6_3(t *testing.T) {
	for _, tc := range []struct {
		name, method, response, body string
		status                       int
		length                       string // Content-Length the client must see, "" for none
		reusable                     bool
	}{
		{"content-length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, "5", true},
		{"content-length 0", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", 200, "0", true},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "hello", 200, "", true},
		{"chunk extension", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;c\r\n\r\n", "hello", 200, "", true},
		{"upper case", "GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", 200, "", true},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", "hello", 200, "", false},
		{"close unsaid", "GET", "HTTP/1.1 200 OK\r\n\r\nhello", "hello", 200, "", false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nhello", "hello", 200, "", false},
		{"HTTP/1.0 keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, "5", true},
		{"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", "hello", 200, "5", true},
		{"HEAD with length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "", 200, "5", true},
		{"HEAD chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", 200, "", true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", "", 204, "", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", "", 304, "", true},
		{"304 with length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", 304, "5", true},
		{"status 599", "GET", "HTTP/1.1 599 Own\r\nContent-Length: 2\r\n\r\nno", "no", 599, "2", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				eachClient(t, p, func(t *testing.T, c *client) {
					origin := newRawOrigin(t, func(oc *originConn) {
						for {
							oc.request()
							oc.send(tc.response)
							if !tc.reusable {
								return
							}
						}
					})
					for range 2 {
						resp := c.do(t, c.newRequest(t, tc.method, origin.url("/"), nil))
						if tc.status == 304 {
							resp.bodyErr = nil // x/net misses the body that the length announces
						}
						resp.expect(t, tc.status, tc.body)
						if got := resp.Header.Get("Content-Length"); tc.length != got && !lengthMayDiffer(c.kind, tc.status, tc.method, tc.length) {
							t.Errorf("Content-Length %q, want %q", got, tc.length)
						}
					}
					want := 1
					if !tc.reusable {
						want = 2
					}
					if got := origin.count(); got != want {
						t.Errorf("the two requests took %d connections, want %d", got, want)
					}
				})
			})
		})
	}
}

// lengthMayDiffer is true where a server may drop or add Content-Length: on
// an answer that has no content, and on one whose whole body it has before
// the head leaves. On HTTP/1.1, net/http drops that of a 304.
func lengthMayDiffer(kind string, status int, method, length string) bool {
	return status == 304 && strings.HasPrefix(kind, "h1") || status == 204 || method == "HEAD" && length == "" || length == ""
}

// RFC 9112 §6.1: what the client gets has exactly one framing, whatever the
// origin's was.
func TestExchange_ResponseReframed_RFC9112_6_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachH1(t, func(t *testing.T, kind string) {
			for _, response := range []string{
				"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
				"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
				"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
				"HTTP/1.0 200 OK\r\n\r\nhello",
			} {
				origin := newRawOrigin(t, func(oc *originConn) {
					oc.request()
					oc.send(response)
				})
				raw := p.dialH1(t, kind)
				resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n")
				if strings.HasPrefix(response, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n") && resp.StatusCode == 502 {
					continue // refusing a repeated length is as good as joining it
				}
				if resp.body != "hello" || resp.err != nil {
					t.Errorf("%q: body %q (%v)", response, resp.body, resp.err)
				}
				lengths, codings := headFields(resp.head, "Content-Length"), headFields(resp.head, "Transfer-Encoding")
				if len(lengths)+len(codings) > 1 || len(codings) == 1 && codings[0] != "chunked" || len(lengths) == 1 && lengths[0] != "5" {
					t.Errorf("%q: framed as Content-Length %q, Transfer-Encoding %q", response, lengths, codings)
				}
				if strings.Contains(resp.head, "ext=1") {
					t.Errorf("chunk extension forwarded: %q", resp.head)
				}
			}
		})
	})
}

// An HTTP/1.0 client gets no chunks, and its request leaves as HTTP/1.1.
func TestExchange_HTTP10Client_RFC9112_6_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				if r := oc.request(); !strings.HasSuffix(strings.SplitN(r.head, "\r\n", 2)[0], " HTTP/1.1") {
					oc.fail("request line %q", r.head)
				}
				oc.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
			}
		})
		raw := p.dialPlain(t)
		resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.0\r\n\r\n")
		if resp.StatusCode != 200 {
			t.Fatalf("status %d: an interim response to a 1.0 client (RFC 9110 §15.2)?", resp.StatusCode)
		}
		if resp.body != "hello" || len(headFields(resp.head, "Transfer-Encoding")) > 0 {
			t.Errorf("got %q with head %q", resp.body, resp.head)
		}
		raw.expectClosed()
	})
}

// RFC 9110 §6.5: response trailers go to clients that can take them: on
// HTTP/1.1 those that said TE: trailers, on HTTP/2 and HTTP/3 all. Fields
// that frame, route or authenticate never go as trailers (§6.5.1).
func TestExchange_ResponseTrailers_RFC9110_6_5(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		for _, declared := range []bool{true, false} {
			t.Run(fmt.Sprintf("declared=%v", declared), func(t *testing.T) {
				origin := newRawOrigin(t, func(oc *originConn) {
					for {
						oc.request()
						head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
						if declared {
							head += "Trailer: X-Sum\r\n"
						}
						oc.send(head + "\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\nHost: evil\r\nSet-Cookie: a=b\r\nAuthorization: Basic eDp5\r\nProxy-Authenticate: Basic\r\nConnection: close\r\n\r\n")
					}
				})
				eachClient(t, p, func(t *testing.T, c *client) {
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					r.Header.Set("TE", "trailers")
					resp := c.do(t, r)
					resp.expect(t, 200, "hello")
					if got := resp.Trailer.Get("X-Sum"); got != "42" {
						t.Errorf("trailer X-Sum %q, want 42; trailers %v", got, resp.Trailer)
					}
					for _, name := range []string{"Content-Length", "Transfer-Encoding", "Host", "Authorization", "Proxy-Authenticate", "Connection"} {
						if v, ok := resp.Trailer[name]; ok && len(v) > 0 {
							t.Errorf("trailer %s: %q forwarded", name, v)
						}
					}
				})
				eachH1(t, func(t *testing.T, kind string) {
					t.Run("without TE", func(t *testing.T) {
						raw := p.dialH1(t, kind)
						resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\n\r\n")
						if resp.body != "hello" || resp.err != nil {
							t.Errorf("body %q (%v)", resp.body, resp.err)
						}
						if got := resp.Trailer.Get("X-Sum"); got != "" {
							t.Errorf("trailer sent to a client that did not ask for any: %v", resp.Trailer)
						}
					})
				})
			})
		}
	})
}

// RFC 9110 §6.5: request trailers reach the origin in its chunked framing.
func TestExchange_RequestTrailers_RFC9110_6_5(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		got := make(chan *originRequest, 10)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				got <- oc.request()
				oc.ok("")
			}
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			if c.kind == "h3" {
				// quic-go sets them on its own request, of which Caddy hands
				// on a copy.
				t.Skip("no handler of Caddy sees the trailers of an HTTP/3 request")
			}
			r := c.newRequest(t, "POST", origin.url("/"), io.NopCloser(strings.NewReader("hello")))
			r.ContentLength = -1
			r.Trailer = http.Header{"X-Sum": {"42"}}
			c.do(t, r).expect(t, 200, "")
			saw := await(t, got, "the request")
			if saw.body != "hello" || !saw.chunked {
				t.Errorf("the origin saw body %q, chunked %v", saw.body, saw.chunked)
			}
			if !slices.ContainsFunc(saw.trailer, func(l string) bool { return strings.EqualFold(l, "X-Sum: 42") }) {
				t.Errorf("the origin saw trailers %q", saw.trailer)
			}
		})
		t.Run("forbidden", func(t *testing.T) {
			raw := p.dialPlain(t)
			resp := raw.roundTrip("POST", "POST "+origin.url("/")+" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"+
				"5\r\nhello\r\n0\r\nX-Sum: 42\r\nHost: evil\r\nAuthorization: Basic eDp5\r\nProxy-Authorization: Basic eDp5\r\nContent-Length: 9\r\nConnection: close\r\n\r\n")
			if resp.StatusCode == 400 {
				return // refusing the request is allowed too
			}
			saw := await(t, got, "the request")
			if len(saw.trailer) > 1 || len(saw.trailer) == 1 && !strings.EqualFold(saw.trailer[0], "X-Sum: 42") {
				t.Errorf("the origin saw trailers %q", saw.trailer)
			}
		})
	})
}

// RFC 9110 §15.2: interim responses are forwarded as they come.
func TestExchange_InterimResponses_RFC9110_15_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			hinted := make(chan struct{}, 1)
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.request()
				oc.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n")
				oc.hold(hinted) // the final response waits until the client has the hint
				oc.ok("done")
			})
			r := traced(c.newRequest(t, "GET", origin.url("/"), nil), func(code int, h http.Header) {
				if code != 103 || h.Get("Link") != "</style.css>" {
					t.Errorf("interim response %d %v", code, h)
				}
				if h.Get("X-Hop") != "" || h.Get("Connection") != "" {
					t.Errorf("hop-by-hop fields in the interim response: %v", h)
				}
				hinted <- struct{}{}
			})
			resp := c.do(t, r)
			resp.expect(t, 200, "done")
			if resp.Header.Get("Link") != "" {
				t.Errorf("fields of the interim response in the final one: %v", resp.Header)
			}
		})
	})
}

// Platform trap 8: a hook for interim responses removes Go's limit on them; ours is
// about their bytes, and not about their number.
func TestExchange_InterimFlood_Trap8(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n max_response_header 8KiB\n}\n"})
		const interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
		for _, n := range []int{9, 100, 8<<10/len(interim) + 1} {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				origin := newRawOrigin(t, func(oc *originConn) {
					oc.request()
					for range n {
						oc.send(interim)
					}
					oc.ok("done")
					_ = oc.awaitEnd()
				})
				raw := p.dialPlain(t)
				raw.send("GET " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\n\r\n")
				came := 0
				resp := raw.response("GET")
				for ; resp.StatusCode == 103; resp = raw.response("GET") {
					came++
				}
				if n*len(interim) > 8<<10 {
					expectError(t, resp.Response, 502, "http_response_header_section_size")
					return
				}
				if came != n || resp.StatusCode != 200 || resp.body != "done" {
					t.Errorf("%d interim responses, then %d %q", came, resp.StatusCode, resp.body)
				}
			})
		}
	})
}

// RFC 9110 §15.2.2: 101 only answers an upgrade that was asked for.
func TestExchange_UnaskedSwitch_RFC9110_15_2_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			oc.request()
			oc.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: evil\r\n\r\nGET / HTTP/1.1\r\n\r\n")
			_ = oc.awaitEnd()
		})
		eachClient(t, p, func(t *testing.T, c *client) {
			resp := c.get(t, origin.url("/"))
			expectError(t, resp.Response, 502, "http_protocol_error", "http_upgrade_failed")
		})
	})
}

// RFC 9209 §2.3: failures on the way to an origin have their status and type.
func TestExchange_GatewayErrors_RFC9209_2_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n response_header_timeout 1s\n}\n"})
		silent := newRawOrigin(t, func(oc *originConn) { _ = oc.awaitEnd() })
		closing := newRawOrigin(t, func(oc *originConn) { oc.head() })
		resetting := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.reset() })
		partial := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.send("HTTP/1.1 200 OK\r\nX-Ev") })
		for _, tc := range []struct {
			name, url string
			status    int
			types     []string
		}{
			{"refused", "http://" + refusedAddr(t) + "/", 502, []string{"connection_refused"}},
			{"no such name", "http://no-such-name.invalid/", 502, []string{"dns_error"}},
			{"silent", silent.url("/"), 504, []string{"http_response_timeout", "connection_read_timeout"}},
			{"closed", closing.url("/"), 502, []string{"connection_terminated", "http_response_incomplete"}},
			{"reset", resetting.url("/"), 502, []string{"connection_terminated"}},
			{"cut in the head", partial.url("/"), 502, []string{"http_response_incomplete"}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				eachClientAtOnce(t, p, func(t *testing.T, c *client) {
					resp := c.get(t, tc.url)
					expectError(t, resp.Response, tc.status, tc.types...)
					if m.access {
						line := p.logs.access(t, "GET", resp.Request.URL.Host)
						if got := line.num("status"); got != float64(tc.status) {
							t.Errorf("logged status %v, want %d", got, tc.status)
						}
					}
				})
			})
		}
	})
}

// https:// in absolute form: TLS to the origin by the configured trust.
func TestExchange_AbsoluteHTTPS(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n tls_trust_pool file " + caFile(t) + "\n}\n"})
		origin := newHTTPSOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "tls=%v", r.TLS != nil)
		})
		eachH1(t, func(t *testing.T, kind string) {
			resp := p.dialH1(t, kind).roundTrip("GET", "GET "+origin.URL+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp.StatusCode != 200 || resp.body != "tls=true" {
				t.Errorf("got %d %q %v", resp.StatusCode, resp.body, resp.Header)
			}
		})
	})
}

// An origin whose certificate nobody trusts is not spoken to.
func TestExchange_UntrustedOrigin_RFC9209_2_3(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newHTTPSOrigin(t, func(http.ResponseWriter, *http.Request) {
			t.Error("the request reached an origin that is not trusted")
		})
		resp := p.dialPlain(t).roundTrip("GET", "GET "+origin.URL+"/ HTTP/1.1\r\nHost: x\r\n\r\n")
		expectError(t, resp.Response, 502, "tls_certificate_error")
	})
}
