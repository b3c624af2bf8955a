package integration

import (
	"io"
	"strings"
	"testing"
)

// The scenarios of upstream.md §7 that are about exchanges, by their numbers.
// Each runs with origins in clear and with TLS.

// warmThen is the script of an origin that answers a first request, and leaves
// the next one on its first connection to dies.
func warmThen(seen chan<- string, dies func(oc *originConn)) func(*originConn) {
	return func(oc *originConn) {
		for n := 1; ; n++ {
			r := oc.request()
			if r.target == "/warm" {
				oc.ok("warm")
				continue
			}
			seen <- r.method
			if oc.number == 1 {
				dies(oc)
				return
			}
			oc.ok("second")
		}
	}
}

// expectAttempts holds the access log of a request to how often it was tried.
func expectAttempts(t *testing.T, p *proxy, path string, want float64) {
	t.Helper()
	if !p.mode.access {
		return
	}
	line := p.logs.wait(t, "the access log of "+path, func(l logLine) bool {
		return l.isAccess() && strings.HasSuffix(l.str("request.uri"), path)
	})
	if got := line.num("egress.attempts"); got != want {
		t.Errorf("%v attempts, want %v", got, want)
	}
}

func eachScenario(t *testing.T, f func(t *testing.T, p *proxy, begin beginOrigin)) {
	t.Helper()
	eachOrigin(t, func(t *testing.T, begin beginOrigin) {
		eachMode(t, func(t *testing.T, m mode) { f(t, start(t, m, trusting(t)), begin) })
	})
}

// 1: a FIN while idle; the next request dials, and no retry is spent.
func TestScenario01_FINWhileIdle(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
			answered, closed := make(chan struct{}), make(chan struct{})
			origin, url := begin(t, func(oc *originConn) {
				oc.request()
				oc.ok("done")
				if oc.number == 1 {
					oc.hold(answered)
					oc.closeWrite()
					close(closed)
				}
				_ = oc.awaitEnd()
			})
			raw := p.dialPlain(t)
			raw.roundTrip("GET", "GET "+url+"/warm HTTP/1.1\r\nHost: x\r\n\r\n")
			close(answered)
			await(t, closed, "the origin's FIN")
			if resp := raw.roundTrip(method, method+" "+url+"/next HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); resp.body != "done" {
				t.Errorf("%s got %d %q", method, resp.StatusCode, resp.body)
			}
			expectAttempts(t, p, "/next", 1)
			if got := origin.count(); got != 2 {
				t.Errorf("%d connections, want 2", got)
			}
		})
	}
}

// 2: a FIN after the second GET was read: one retry, 200.
func TestScenario02_FINAfterSecondGET(t *testing.T) {
	eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
		seen := make(chan string, 8)
		origin, url := begin(t, warmThen(seen, func(oc *originConn) { oc.closeWrite(); _ = oc.awaitEnd() }))
		raw := p.dialPlain(t)
		raw.roundTrip("GET", "GET "+url+"/warm HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp := raw.roundTrip("GET", "GET "+url+"/next HTTP/1.1\r\nHost: x\r\n\r\n"); resp.StatusCode != 200 || resp.body != "second" {
			t.Errorf("got %d %q", resp.StatusCode, resp.body)
		}
		expectAttempts(t, p, "/next", 2)
		if len(seen) != 2 || origin.count() != 2 {
			t.Errorf("seen %d times on %d connections, want 2 and 2", len(seen), origin.count())
		}
	})
}

// 3: the same with POST: 502, and the origin saw it once.
func TestScenario03_FINAfterPOST(t *testing.T) {
	eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
		seen := make(chan string, 8)
		_, url := begin(t, warmThen(seen, func(oc *originConn) { oc.closeWrite(); _ = oc.awaitEnd() }))
		raw := p.dialPlain(t)
		raw.roundTrip("GET", "GET "+url+"/warm HTTP/1.1\r\nHost: x\r\n\r\n")
		resp := raw.roundTrip("POST", "POST "+url+"/next HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
		expectError(t, resp.Response, 502, "connection_terminated")
		expectAttempts(t, p, "/next", 1)
		if len(seen) != 1 {
			t.Errorf("seen %d times", len(seen))
		}
	})
}

// 4: a fresh connection that is closed after the write: 502, no retry.
func TestScenario04_FreshConnectionCloses(t *testing.T) {
	eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
		seen := make(chan string, 8)
		_, url := begin(t, func(oc *originConn) { seen <- oc.request().method })
		resp := p.dialPlain(t).roundTrip("GET", "GET "+url+"/next HTTP/1.1\r\nHost: x\r\n\r\n")
		expectError(t, resp.Response, 502, "connection_terminated")
		expectAttempts(t, p, "/next", 1)
		if len(seen) != 1 {
			t.Errorf("seen %d times", len(seen))
		}
	})
}

// 16: a 413 during the upload is relayed, and its connection not used again.
func TestScenario16_RefusedDuringUpload(t *testing.T) {
	eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
		ended := make(chan struct{}, 1)
		origin, url := begin(t, func(oc *originConn) {
			if strings.HasPrefix(oc.head(), "GET ") {
				oc.ok("next")
				return
			}
			if _, err := io.ReadFull(oc.br, make([]byte, 5)); err != nil {
				oc.fail("body: %v", err)
			}
			oc.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
			_ = oc.awaitEnd()
			ended <- struct{}{}
		})
		raw := p.dialPlain(t)
		raw.send("POST " + url + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nbegin")
		if resp := raw.response("POST"); resp.StatusCode != 413 || resp.body != "big" || !resp.Close {
			t.Errorf("got %d %q, close %v", resp.StatusCode, resp.body, resp.Close)
		}
		raw.Close()
		await(t, ended, "the end of the origin's connection")
		if resp := p.dialPlain(t).roundTrip("GET", "GET "+url+"/ HTTP/1.1\r\nHost: x\r\n\r\n"); resp.body != "next" || origin.count() != 2 {
			t.Errorf("the next request got %d %q on connection %d", resp.StatusCode, resp.body, origin.count())
		}
	})
}

// 17: 103s are all forwarded, however many, and then the answer; what is over the size of
// a response head (here 8 KiB), together, is cut.
func TestScenario17_EarlyHintsFlood(t *testing.T) {
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
		for n, status := range map[int]int{150: 200, 8<<10/len(hint) + 1: 502} {
			ended := make(chan struct{}, 1)
			_, url := begin(t, func(oc *originConn) {
				oc.request()
				_, _ = io.WriteString(oc.Conn, strings.Repeat(hint, n)+"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
				_ = oc.awaitEnd()
				ended <- struct{}{}
			})
			raw := p.dialPlain(t)
			raw.send("GET " + url + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
			hints, resp := 0, raw.response("GET")
			for ; resp.StatusCode == 103; resp = raw.response("GET") {
				hints++
			}
			if status == 200 && (hints != n || resp.body != "ok") {
				t.Errorf("%d forwarded of %d, then %d %q", hints, n, resp.StatusCode, resp.body)
			}
			if status == 502 {
				expectError(t, resp.Response, 502, "http_response_header_section_size")
			}
			await(t, ended, "the end of the origin's connection")
		}
	})
}

// 18: Expect and a 417: the body is never sent.
func TestScenario18_ExpectRefused(t *testing.T) {
	eachScenario(t, func(t *testing.T, p *proxy, begin beginOrigin) {
		sent := make(chan string, 1)
		_, url := begin(t, func(oc *originConn) {
			head := oc.head()
			oc.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
			_ = oc.awaitEnd()
			sent <- strings.TrimPrefix(oc.seen.String(), head)
		})
		raw := p.dialPlain(t)
		raw.send("POST " + url + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
		if resp := raw.response("POST"); resp.StatusCode != 417 || !resp.Close {
			t.Errorf("got %d, close %v", resp.StatusCode, resp.Close)
		}
		raw.trySend("secret!!!")
		if body := await(t, sent, "the end of the origin's connection"); body != "" {
			t.Errorf("the origin was sent %q", body)
		}
	})
}
