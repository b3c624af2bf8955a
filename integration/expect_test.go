package integration

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// RFC 9110 §10.1.1: the client's 100 follows the origin's. The hint in front
// proves the order: a 100 of our own would have come before it.
func TestExpect_ContinueFollowsOrigin_RFC9110_10_1_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n expect_continue_timeout 1m\n}\n"})
		eachH1(t, func(t *testing.T, kind string) {
			origin := newRawOrigin(t, func(oc *originConn) {
				head := oc.head()
				if got := headFields(head, "Expect"); len(got) != 1 || !strings.EqualFold(got[0], "100-continue") {
					oc.fail("Expect %q in %q", got, head)
				}
				oc.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
				oc.send("HTTP/1.1 100 Continue\r\n\r\n")
				b := make([]byte, 5)
				if _, err := io.ReadFull(oc.br, b); err != nil {
					oc.fail("body: %v", err)
				}
				oc.ok("got " + string(b))
			})
			raw := p.dialH1(t, kind)
			raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
			for _, want := range []int{103, 100} {
				if resp := raw.response("POST"); resp.StatusCode != want {
					t.Fatalf("got %d, want %d", resp.StatusCode, want)
				}
			}
			raw.send("hello")
			if resp := raw.response("POST"); resp.StatusCode != 200 || resp.body != "got hello" {
				t.Errorf("got %d %q", resp.StatusCode, resp.body)
			}
		})
	})
}

// An origin that says nothing about Expect gets the body after the timeout.
func TestExpect_Fallback_RFC9110_10_1_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n expect_continue_timeout 50ms\n}\n"})
		eachH1(t, func(t *testing.T, kind string) {
			origin := newRawOrigin(t, func(oc *originConn) { oc.ok("got " + oc.request().body) })
			raw := p.dialH1(t, kind)
			raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
			if resp := raw.response("POST"); resp.StatusCode != 100 {
				t.Fatalf("got %d, want 100", resp.StatusCode)
			}
			raw.send("hello")
			if resp := raw.response("POST"); resp.StatusCode != 200 || resp.body != "got hello" {
				t.Errorf("got %d %q", resp.StatusCode, resp.body)
			}
		})
	})
}

// The default of the fallback is one second: without any configuration the
// body gets through too.
func TestExpect_DefaultFallback_RFC9110_10_1_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			origin := newRawOrigin(t, func(oc *originConn) { oc.ok("got " + oc.request().body) })
			r := c.newRequest(t, "POST", origin.url("/"), strings.NewReader("hello"))
			r.Header.Set("Expect", "100-continue")
			if c.h1 != nil {
				c.h1.ExpectContinueTimeout = 2 * patience
			}
			c.do(t, r).expect(t, 200, "got hello")
		})
	})
}

// RFC 9110 §10.1.1: after a final status in place of the 100 the body is
// never sent, and what the client sends nevertheless is never a request.
func TestExpect_Refused_RFC9110_10_1_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n expect_continue_timeout 1m\n}\n"})
		for _, status := range []string{"417 Expectation Failed", "413 Content Too Large", "200 OK"} {
			eachH1(t, func(t *testing.T, kind string) {
				t.Run(status[:3], func(t *testing.T) {
					smuggled := "GET http://127.0.0.1:1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
					gone := make(chan string, 1)
					origin := newRawOrigin(t, func(oc *originConn) {
						head := oc.head()
						oc.send("HTTP/1.1 " + status + "\r\nContent-Length: 2\r\n\r\nno")
						_ = oc.awaitEnd()
						gone <- strings.TrimPrefix(oc.seen.String(), head)
					})
					raw := p.dialH1(t, kind)
					raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
					resp := raw.response("POST")
					if !strings.HasPrefix(status, resp.Status[:3]) || resp.body != "no" {
						t.Fatalf("got %q %q, want %q", resp.Status, resp.body, status)
					}
					if !resp.Close {
						t.Errorf("no Connection: close though the body was not read: %q", resp.head)
					}
					raw.trySend(smuggled)
					raw.expectClosed()
					if rest := await(t, gone, "the end of the origin's connection"); rest != "" {
						t.Errorf("the origin was sent %q of a body it had refused", rest)
					}
				})
			})
		}
	})
}

// A client that does not wait for the 100 it asked for is served as well.
func TestExpect_ClientDoesNotWait_RFC9110_10_1_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
		})
		eachH1(t, func(t *testing.T, kind string) {
			raw := p.dialH1(t, kind)
			raw.send("POST " + origin.URL + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
			resp := raw.response("POST")
			for resp.StatusCode == 100 {
				resp = raw.response("POST")
			}
			if resp.StatusCode != 200 || resp.body != "hello" {
				t.Errorf("got %d %q", resp.StatusCode, resp.body)
			}
		})
	})
}
