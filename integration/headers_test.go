package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// recorder is an origin that answers everything and hands out what it saw.
func recorder(t *testing.T, response string) (*rawOrigin, <-chan *originRequest) {
	t.Helper()
	saw := make(chan *originRequest, 64)
	return newRawOrigin(t, func(oc *originConn) {
		for {
			saw <- oc.request()
			oc.send(response)
		}
	}), saw
}

const okResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// RFC 9110 §7.6.1: Connection, what all its lines list, and the hop-by-hop
// fields go; what matters end to end stays, listed or not.
func TestHeaders_RequestHopByHop_RFC9110_7_6_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		eachH1(t, func(t *testing.T, kind string) {
			resp := p.dialH1(t, kind).roundTrip("POST", "POST "+origin.url("/")+" HTTP/1.1\r\n"+
				"Host: other.example\r\n"+
				"Connection: X-One , keep-alive,,\r\n"+
				"X-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\nX-Keep: k\r\n"+
				"Connection: x-two, host, via, forwarded\r\n"+
				"connection: authorization, content-length, X-THREE\r\n"+
				"Keep-Alive: timeout=5\r\n"+
				"Proxy-Connection: keep-alive, X-Keep\r\n"+
				"TE: gzip, trailers;q=0.5\r\n"+
				"Upgrade: foo/2\r\n"+
				"Authorization: Bearer x\r\n"+
				"Via: 1.0 before\r\n"+
				"Forwarded: for=203.0.113.7\r\n"+
				"Content-Length: 4\r\n\r\nbody")
			if resp.StatusCode != 200 {
				t.Fatalf("status %d %v", resp.StatusCode, resp.Header)
			}
			r := await(t, saw, "the request")
			for _, name := range []string{"X-One", "X-Two", "X-Three", "Keep-Alive", "Proxy-Connection", "Upgrade"} {
				if v := r.fields(name); len(v) > 0 {
					t.Errorf("%s forwarded: %q", name, v)
				}
			}
			for name, want := range map[string]string{"Host": origin.addr, "Authorization": "Bearer x", "Content-Length": "4", "X-Keep": "k"} {
				if v := r.fields(name); len(v) != 1 || v[0] != want {
					t.Errorf("%s is %q, want %q", name, v, want)
				}
			}
			if r.body != "body" {
				t.Errorf("body %q", r.body)
			}
			if via := strings.Join(r.fields("Via"), ", "); !strings.HasPrefix(via, "1.0 before, 1.1 caddy") {
				t.Errorf("Via %q", via)
			}
			if fwd := strings.Join(r.fields("Forwarded"), ", "); fwd != "for=203.0.113.7, for=127.0.0.1" {
				t.Errorf("Forwarded %q", fwd)
			}
			expectTE(t, r)
		})
	})
}

// expectTE holds a forwarded request to RFC 9110 §10.1.4: TE says trailers or
// is not there, and Connection lists it and nothing else.
func expectTE(t *testing.T, r *originRequest) {
	t.Helper()
	te, connection := r.fields("TE"), r.fields("Connection")
	switch {
	case len(te) == 0 && len(connection) == 0:
	case len(te) == 1 && te[0] == "trailers" && len(connection) == 1 && strings.EqualFold(connection[0], "TE"):
	default:
		t.Errorf("TE %q, Connection %q", te, connection)
	}
}

// RFC 9110 §10.1.4: of TE, only trailers may pass.
func TestHeaders_TE_RFC9110_10_1_4(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, te := range []string{"trailers", "gzip", "deflate;q=0.5, trailers", "trailers-not, gzip"} {
				if c.kind != "h1" && c.kind != "h1tls" && te != "trailers" {
					continue // malformed in HTTP/2 and HTTP/3
				}
				r := c.newRequest(t, "GET", origin.url("/"), nil)
				r.Header.Set("TE", te)
				c.do(t, r).expect(t, 200, "ok")
				got := await(t, saw, "the request")
				expectTE(t, got)
				if !slices.Contains(strings.Split(te, ", "), "trailers") && len(got.fields("TE")) > 0 {
					t.Errorf("TE: %s became %q", te, got.fields("TE"))
				}
			}
		})
	})
}

// RFC 9110 §7.6.1 and §11.7 the other way round.
func TestHeaders_ResponseHopByHop_RFC9110_7_6_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, _ := recorder(t, "HTTP/1.1 200 OK\r\n"+
			"Connection: X-One,keep-alive\r\nX-One: 1\r\nX-Two: 2\r\nX-Keep: k\r\n"+
			"connection: x-two, via, set-cookie, content-length, date\r\n"+
			"Keep-Alive: timeout=5, max=10\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: trailers\r\n"+
			"Proxy-Authenticate: Basic realm=\"evil\"\r\nProxy-Authentication-Info: x=y\r\n"+
			"Via: 1.0 origin-side\r\nSet-Cookie: a=b\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"+
			"Content-Length: 2\r\n\r\nok")
		eachClient(t, p, func(t *testing.T, c *client) {
			resp := c.get(t, origin.url("/"))
			resp.expect(t, 200, "ok")
			for _, name := range []string{"X-One", "X-Two", "Keep-Alive", "Proxy-Connection", "Upgrade", "Te", "Proxy-Authenticate", "Connection"} {
				if v := resp.Header.Values(name); len(v) > 0 {
					t.Errorf("%s relayed: %q", name, v)
				}
			}
			for name, want := range map[string]string{"X-Keep": "k", "Content-Length": "2", "Date": "Mon, 01 Jan 2024 00:00:00 GMT"} {
				if v := resp.Header.Values(name); len(v) != 1 || v[0] != want {
					t.Errorf("%s is %q, want %q", name, v, want)
				}
			}
			if via := strings.Join(resp.Header.Values("Via"), ", "); !strings.HasPrefix(via, "1.0 origin-side, 1.1 caddy") {
				t.Errorf("Via %q", via)
			}
		})
	})
}

// A 407 of an origin is not ours and must not look like ours.
func TestHeaders_OriginChallenge_RFC9110_11_7(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, _ := recorder(t, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"evil\"\r\nContent-Length: 2\r\n\r\nno")
		eachClient(t, p, func(t *testing.T, c *client) {
			resp := c.get(t, origin.url("/"))
			if v := resp.Header.Values("Proxy-Authenticate"); len(v) > 0 {
				t.Errorf("challenge of an origin relayed: %d %q", resp.StatusCode, v)
			}
		})
	})
}

// RFC 9110 §7.6.3: Via on requests has the version the client spoke, on
// responses the version the origin spoke; appended, in order.
func TestHeaders_Via_RFC9110_7_6_3(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		t.Run(fmt.Sprintf("hide_via=%v", hidden), func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				s := setup{egress: usual + "server_name edge\n"}
				if hidden {
					s.egress += "hide_via\n"
				}
				p := start(t, m, s)
				for _, version := range []string{"1.1", "1.0"} {
					origin, saw := recorder(t, "HTTP/"+version+" 200 OK\r\nConnection: keep-alive\r\nVia: 1.0 a\r\nVia: 2 b (c)\r\nContent-Length: 2\r\n\r\nok")
					eachClient(t, p, func(t *testing.T, c *client) {
						r := c.newRequest(t, "GET", origin.url("/"), nil)
						r.Header["Via"] = []string{"1.0 x", "1.1 y (comment, with comma)"}
						resp := c.do(t, r)
						resp.expect(t, 200, "ok")
						up := strings.Join(await(t, saw, "the request").fields("Via"), ", ")
						down := strings.Join(resp.Header.Values("Via"), ", ")
						wantUp, wantDown := "1.0 x, 1.1 y (comment, with comma)", "1.0 a, 2 b (c)"
						if hidden {
							if up != wantUp || down != wantDown {
								t.Errorf("Via up %q, down %q", up, down)
							}
							return
						}
						if want := wantUp + ", " + receivedVersion[c.kind] + " edge"; up != want && !strings.HasPrefix(up, want+" (") {
							t.Errorf("Via of the request %q, want %q", up, want)
						}
						if want := wantDown + ", " + version + " edge"; down != want && !strings.HasPrefix(down, want+" (") {
							t.Errorf("Via of the response %q, want %q", down, want)
						}
					})
				}
			})
		})
	}
}

// RFC 7239 §4, §6: Forwarded names the client by its address, as unknown, or
// not at all; in full with the protocol, the host and our side.
func TestHeaders_Forwarded_RFC7239(t *testing.T) {
	for _, tc := range []struct {
		name, option string
		v4, v6       string // "" for no field
	}{
		{"default", "", "for=127.0.0.1", `for="[::1]"`},
		{"for", "forwarded for\n", "for=127.0.0.1", `for="[::1]"`},
		{"off", "forwarded off\n", "", ""},
		{"hide_ip", "hide_ip\n", "for=unknown", "for=unknown"},
		{"hide_ip full", "hide_ip\nforwarded full\n", "for=unknown;", "for=unknown;"},
		{"full", "forwarded full\n", "for=127.0.0.1;", `for="[::1]";`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{egress: usual + tc.option, bind6: true})
				origin, saw := recorder(t, okResponse)
				six := "[::1]:" + port(p.plain)
				for _, side := range []struct{ addr, want string }{{p.plain, tc.v4}, {six, tc.v6}} {
					for _, before := range []string{"", `for="[2001:db8::1]:4711"`} {
						fields := "Host: x\r\n"
						if before != "" {
							fields += "Forwarded: " + before + "\r\n"
						}
						raw := dialRaw(t, side.addr, nil)
						raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\n"+fields+"\r\n")
						r := await(t, saw, "the request")
						got := strings.Join(r.fields("Forwarded"), ", ")
						want := side.want
						if before != "" {
							want = strings.TrimSuffix(before+", "+side.want, ", ")
						}
						switch {
						case strings.HasSuffix(want, ";"):
							if !strings.HasPrefix(got, want) {
								t.Errorf("Forwarded %q, want %s…", got, want)
							}
							expectForwardedPairs(t, got, origin.addr, tc.name)
						case got != want:
							t.Errorf("Forwarded %q, want %q", got, want)
						}
						for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip"} {
							if v := r.fields(name); len(v) > 0 {
								t.Errorf("%s invented: %q", name, v)
							}
						}
						if strings.HasPrefix(tc.name, "hide_ip") && (strings.Contains(got, "127.0.0.1") && !strings.Contains(got, `host="127.0.0.1`) || strings.Contains(got, "[::1]")) {
							t.Errorf("a hidden address shows: %q", got)
						}
					}
				}
			})
		})
	}
}

// expectForwardedPairs checks the last element of a full Forwarded field.
func expectForwardedPairs(t *testing.T, field, host, name string) {
	t.Helper()
	last := field[strings.LastIndex(field, ", ")+1:]
	pairs := map[string]string{}
	for _, pair := range strings.Split(strings.TrimSpace(last), ";") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			t.Errorf("%s: malformed pair %q in %q", name, pair, field)
		}
		pairs[strings.ToLower(k)] = v
	}
	if pairs["proto"] != "http" {
		t.Errorf("%s: proto %q in %q", name, pairs["proto"], field)
	}
	if want := `"` + host + `"`; pairs["host"] != "" && pairs["host"] != want {
		t.Errorf("%s: host %s in %q, want %s quoted", name, pairs["host"], field, want)
	}
}

// Nothing is invented on the way: the origin gets the client's fields and
// ours, the client the origin's and ours.
func TestHeaders_NothingInvented(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, "HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 6\r\n\r\n<html>")
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, method := range []string{"GET", "POST", "HEAD", "DELETE"} {
				var body io.Reader
				allowed := []string{"host", "via", "forwarded", "x-mine"}
				if method == "POST" {
					body = strings.NewReader("<html>")
					allowed = append(allowed, "content-length")
				}
				req := c.newRequest(t, method, origin.url("/"), body)
				req.Header.Set("X-Mine", "1")
				resp := c.do(t, req)
				for _, name := range headNames(await(t, saw, "the request").head) {
					if !slices.Contains(allowed, name) {
						t.Errorf("%s: the origin got %s", method, name)
					}
				}
				for name, values := range resp.Header {
					if !slices.Contains([]string{"X-Own", "Content-Length", "Via", "Date"}, name) {
						t.Errorf("%s: the client got %s: %q", method, name, values)
					}
				}
			}
		})
	})
}

// What is the origin's own passes unchanged: no decoding, no Server or
// Alt-Svc of Caddy in place of its own, no field merged away.
func TestHeaders_OriginsOwnKept(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, "HTTP/1.1 200 OK\r\nServer: own/1\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Empty:\r\nX-High: caf\xe9\r\nContent-Type: text/x\r\nContent-Length: 5\r\n\r\n\x1f\x8bxyz")
		eachClient(t, p, func(t *testing.T, c *client) {
			r := c.newRequest(t, "GET", origin.url("/"), nil)
			r.Header.Set("Accept-Encoding", "gzip")
			r.Header["X-Twice"] = []string{"1", "2"}
			r.Header.Set("X-Empty", "")
			r.Header.Set("User-Agent", "own/1")
			resp := c.do(t, r)
			resp.expect(t, 200, "\x1f\x8bxyz")
			for name, want := range map[string][]string{"Server": {"own/1"}, "Content-Encoding": {"gzip"}, "Set-Cookie": {"a=1", "b=2"}, "X-Empty": {""}, "Content-Type": {"text/x"}, "Alt-Svc": nil, "X-High": {"caf\xe9"}} {
				if got := resp.Header.Values(name); !slices.Equal(got, want) {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			up := await(t, saw, "the request")
			for name, want := range map[string][]string{"Accept-Encoding": {"gzip"}, "X-Twice": {"1", "2"}, "X-Empty": {""}, "User-Agent": {"own/1"}} {
				if got := up.fields(name); !slices.Equal(got, want) {
					t.Errorf("%s went up as %q, want %q", name, got, want)
				}
			}
		})
	})
}

// RFC 9112 §3.2.2: the target in absolute form wins over Host; Host is made
// from it, one, first in the head.
func TestHeaders_HostFromTarget_RFC9112_3_2_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		for _, tc := range []struct{ name, target, want string }{
			{"address", "http://" + origin.addr + "/", origin.addr},
			{"upper case scheme", "HTTP://" + origin.addr + "/", origin.addr},
			{"name", "http://localhost:" + port(origin.addr) + "/", "localhost:" + port(origin.addr)},
			{"upper case name", "http://LocalHost:" + port(origin.addr) + "/", "localhost:" + port(origin.addr)},
		} {
			t.Run(tc.name, func(t *testing.T) {
				raw := p.dialPlain(t)
				resp := raw.roundTrip("GET", "GET "+tc.target+" HTTP/1.1\r\nHost: evil.example\r\n\r\n")
				if resp.StatusCode != 200 {
					t.Fatalf("status %d %v", resp.StatusCode, resp.Header)
				}
				r := await(t, saw, "the request")
				if got := r.fields("Host"); len(got) != 1 || !strings.EqualFold(got[0], tc.want) {
					t.Errorf("Host %q, want %q", got, tc.want)
				}
			})
		}
	})
}

// RFC 9112 §3.2: no Host, or two, on HTTP/1.1 is a bad request.
func TestHeaders_HostMissingOrTwice_RFC9112_3_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, _ := recorder(t, okResponse)
		for _, fields := range []string{"", "Host: a\r\nHost: b\r\n", "Host: a b\r\n", "Host: a\r\nhost: a\r\n"} {
			raw := p.dialPlain(t)
			if resp := raw.roundTrip("GET", "GET "+origin.url("/")+" HTTP/1.1\r\n"+fields+"\r\n"); resp.StatusCode != 400 {
				t.Errorf("%q: status %d, want 400", fields, resp.StatusCode)
			}
		}
		if origin.count() > 0 {
			t.Errorf("%d of them reached the origin", origin.count())
		}
	})
}

// RFC 9110 §7.6.2: Max-Forwards counts down on TRACE and OPTIONS, and at 0
// the answer is ours. Elsewhere it means nothing.
func TestHeaders_MaxForwards_RFC9110_7_6_2(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, tc := range []struct{ method, sent, want string }{
				{"TRACE", "3", "2"}, {"OPTIONS", "1", "0"}, {"OPTIONS", "10", "9"}, {"GET", "5", "5"}, {"GET", "0", "0"},
			} {
				r := c.newRequest(t, tc.method, origin.url("/"), nil)
				r.Header.Set("Max-Forwards", tc.sent)
				c.do(t, r).expect(t, 200, "ok")
				if got := await(t, saw, "the request").fields("Max-Forwards"); len(got) != 1 || got[0] != tc.want {
					t.Errorf("%s: Max-Forwards %s became %q, want %s", tc.method, tc.sent, got, tc.want)
				}
			}
			for _, method := range []string{"TRACE", "OPTIONS"} {
				r := c.newRequest(t, method, origin.url("/"), nil)
				r.Header.Set("Max-Forwards", "0")
				r.Header.Set("Cookie", "secret=1")
				r.Header.Set("Proxy-Authorization", "Basic c2VjcmV0OnNlY3JldA==")
				r.Header.Set("X-Mine", "mine")
				resp := c.do(t, r)
				if resp.StatusCode != 200 && resp.StatusCode != 204 {
					t.Errorf("%s at 0: status %d", method, resp.StatusCode)
				}
				if strings.Contains(resp.body, "secret") || strings.Contains(resp.body, "c2VjcmV0") {
					t.Errorf("%s reflects credentials (§9.3.8): %q", method, resp.body)
				}
				if method == "TRACE" && (resp.Header.Get("Content-Type") != "message/http" || !strings.Contains(resp.body, "mine")) {
					t.Errorf("TRACE: %v %q", resp.Header, resp.body)
				}
			}
			if len(saw) > 0 {
				t.Errorf("%d requests with Max-Forwards: 0 were forwarded", len(saw))
			}
		})
	})
}

// RFC 9112 §3.2.4: OPTIONS without a path in absolute form asks about the
// server: the last proxy makes it *. With a path it stays.
func TestTarget_OptionsAsterisk_RFC9112_3_2_4(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		for target, want := range map[string]string{
			"http://" + origin.addr:            "*",
			"http://" + origin.addr + "/":      "/",
			"http://" + origin.addr + "/*":     "/*",
			"http://" + origin.addr + "?x=1":   "/?x=1",
			"http://" + origin.addr + "/a?b=/": "/a?b=/",
		} {
			resp := p.dialPlain(t).roundTrip("OPTIONS", "OPTIONS "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp.StatusCode != 200 {
				t.Errorf("%s: status %d", target, resp.StatusCode)
				continue
			}
			if got := await(t, saw, "the request").target; got != want {
				t.Errorf("OPTIONS %s became %q, want %q", target, got, want)
			}
		}
	})
}

// RFC 9112 §3.2.2, RFC 3986 §6: path and query are the origin's to read: not
// one byte of them changes.
func TestTarget_BytesPreserved(t *testing.T) {
	targets := []string{
		"/", "//", "//a/../b?x=%2F|", "/a/./b/../c", "/%2e%2E/%7euser/%41", "/a%2Fb%5C", "/?", "/a?", "/a?b?c=d?",
		"/a;b=c;d", "/a?x=y;z&w", "/+%20?+%20", "/:@!$&'()*,=", "/caf%C3%A9", "/%zz-not-encoded?%zz", "/a?q=[]{}|\\^`\"<>", "/a%00b",
		"/http://other.example/x", "/a//b///c/",
	}
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		for _, target := range targets {
			resp := p.dialPlain(t).roundTrip("GET", "GET "+origin.url(target)+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp.StatusCode == 400 && strings.Contains(target, "%zz") {
				continue // Go refuses a path that is no URL
			}
			if resp.StatusCode != 200 {
				t.Errorf("%s: status %d", target, resp.StatusCode)
				continue
			}
			if got := await(t, saw, "the request").target; got != target {
				t.Errorf("%s became %s", target, got)
			}
		}
		for target, want := range map[string]string{"": "/", "?x=1": "/?x=1"} {
			p.dialPlain(t).roundTrip("GET", "GET "+origin.url(target)+" HTTP/1.1\r\nHost: x\r\n\r\n")
			if got := await(t, saw, "the request").target; got != want {
				t.Errorf("an empty path with %q became %q, want %q", target, got, want)
			}
		}
		for _, kind := range []string{"h2", "h3"} {
			t.Run(kind, func(t *testing.T) {
				c := p.client(t, kind)
				for _, target := range targets {
					if strings.HasPrefix(target, "/%zz") {
						continue // a path that Go refuses ends the connection
					}
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					r.URL = &url.URL{Scheme: "http", Host: origin.addr, Opaque: "//" + origin.addr + target}
					resp := c.do(t, r)
					if resp.StatusCode != http.StatusOK {
						t.Errorf("%s: status %d", target, resp.StatusCode)
						continue
					}
					if got := await(t, saw, "the request").target; got != target {
						t.Errorf("%s became %s", target, got)
					}
				}
			})
		}
	})
}
