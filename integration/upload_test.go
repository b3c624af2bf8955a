package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Platform trap 1: an answer that comes before the upload is read reaches
// the client, the connection closes, and nothing of the rest of the body is
// parsed as a request.
func TestUpload_EarlyResponse_Trap1(t *testing.T) {
	for _, framing := range []string{"length", "chunked"} {
		t.Run(framing, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				eachH1AtOnce(t, func(t *testing.T, kind string) {
					smuggled := make(chan struct{}, 16)
					trap := newRawOrigin(t, func(oc *originConn) { oc.head(); smuggled <- struct{}{}; oc.ok("smuggled") })
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.head()
						oc.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
						_ = oc.awaitEnd()
					})
					inner := "GET " + trap.url("/") + " HTTP/1.1\r\nHost: x\r\n\r\n"
					raw := p.dialH1(t, kind)
					if framing == "length" {
						raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\nbegin")
					} else {
						raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
					}
					resp := raw.response("POST")
					if resp.StatusCode != 403 || resp.body != "no" {
						t.Fatalf("got %d %q", resp.StatusCode, resp.body)
					}
					if !resp.Close {
						t.Errorf("no Connection: close on an early answer: %q", resp.head)
					}
					// The rest of the body is nothing but requests.
					for range 4 {
						raw.trySend(strings.Repeat(inner, 1000))
					}
					if rest, _ := io.ReadAll(raw.br); len(rest) > 0 {
						t.Errorf("the proxy answered what was behind its answer: %.200q", rest)
					}
					if trap.count() > 0 || len(smuggled) > 0 {
						t.Errorf("%d smuggled requests reached an origin", trap.count())
					}
				})
			})
		})
	}
}

// The same for an answer of our own: a refused request with an upload behind.
func TestUpload_BehindRefusal_Trap1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		trap := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("smuggled") })
		inner := "GET " + trap.url("/") + " HTTP/1.1\r\nHost: x\r\n\r\n"
		for _, tc := range []struct {
			name, target string
			status       int
		}{
			{"policy", "http://10.0.0.1/", 403},
			{"refused", "http://" + refusedAddr(t) + "/", 502},
		} {
			eachH1AtOnce(t, func(t *testing.T, kind string) {
				for _, framing := range []string{"Content-Length: 300000", "Transfer-Encoding: chunked"} {
					t.Run(tc.name+" "+framing, func(t *testing.T) {
						raw := p.dialH1(t, kind)
						raw.send("POST " + tc.target + " HTTP/1.1\r\nHost: x\r\n" + framing + "\r\n\r\n")
						for range 4 {
							raw.trySend(strings.Repeat(inner, 1000))
						}
						resp := raw.response("POST")
						if resp.StatusCode != tc.status && !(resp.StatusCode == 400 && strings.HasPrefix(framing, "Transfer")) {
							t.Errorf("status %d, want %d", resp.StatusCode, tc.status)
						}
						if rest, _ := io.ReadAll(raw.br); len(rest) > 0 {
							t.Errorf("the proxy answered what was behind its answer: %.200q", rest)
						}
						if trap.count() > 0 {
							t.Errorf("%d smuggled requests reached an origin", trap.count())
						}
					})
				}
			})
		}
	})
}

// A chunk that is none, in the middle of an upload: the origin never gets a
// request that looks whole, the connection closes.
func TestUpload_MalformedChunk_Trap1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachH1(t, func(t *testing.T, kind string) {
			ended := make(chan string, 1)
			origin := newRawOrigin(t, func(oc *originConn) {
				_ = oc.awaitEnd()
				ended <- oc.seen.String()
			})
			raw := p.dialH1(t, kind)
			raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\nzz\r\nGET " + origin.url("/smuggled") + " HTTP/1.1\r\nHost: x\r\n\r\n")
			all, _ := io.ReadAll(raw.br)
			if n := strings.Count(string(all), "HTTP/1.1 "); n > 1 {
				t.Errorf("%d answers: %.300q", n, all)
			}
			if len(all) > 0 && !strings.HasPrefix(string(all), "HTTP/1.1 400 ") {
				t.Errorf("answer %.100q, want 400", all)
			}
			if origin.count() == 0 {
				return
			}
			saw := await(t, ended, "the end of the origin's connection")
			if strings.Contains(saw, "smuggled") || strings.HasSuffix(saw, "0\r\n\r\n") {
				t.Errorf("the origin saw %q", saw)
			}
		})
	})
}

// On HTTP/2 and HTTP/3 an early answer ends one stream; the connection and
// its next stream go on.
func TestUpload_EarlyResponse_Multiplexed(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			// It stays open after an answer that lets it be used again: closing
			// would race with the next upload, which is not sent twice.
			head := oc.head()
			for ; strings.HasPrefix(head, "GET "); head = oc.head() {
				oc.ok("next")
			}
			oc.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			_ = oc.awaitEnd()
		})
		for _, kind := range []string{"h2", "h3"} {
			t.Run(kind, func(t *testing.T) {
				c := p.client(t, kind)
				pr, pw := io.Pipe()
				defer pw.Close()
				r := c.newRequest(t, "POST", origin.url("/"), pr)
				go func() { _, _ = io.WriteString(pw, "begin") }()
				c.do(t, r).expect(t, 403, "no")
				c.get(t, origin.url("/")).expect(t, 200, "next")
			})
		}
	})
}

// A client that goes away takes its request with it: the origin's connection
// closes, before and in the middle of a response.
func TestExchange_ClientCancels(t *testing.T) {
	for _, when := range []string{"before the response", "within the response"} {
		t.Run(when, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				eachClient(t, p, func(t *testing.T, c *client) {
					arrived, ended := make(chan struct{}, 1), make(chan error, 1)
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.head()
						if when != "before the response" {
							oc.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
						}
						arrived <- struct{}{}
						ended <- oc.awaitEnd()
					})
					r := c.newRequest(t, "GET", origin.url("/"), nil)
					cancelled, cancel := withCancel(r)
					result := make(chan error, 1)
					go func() {
						resp, err := c.rt.RoundTrip(cancelled)
						if err == nil {
							defer resp.Body.Close()
							if when != "before the response" {
								_, err = io.ReadFull(resp.Body, make([]byte, 5))
							}
							cancelIf(err == nil, cancel)
							_, err = io.ReadAll(resp.Body)
						}
						result <- err
					}()
					await(t, arrived, "the request at the origin")
					if when == "before the response" {
						cancel()
					}
					if err := await(t, result, "the client"); err == nil {
						t.Error("the cancelled request succeeded")
					}
					await(t, ended, "the end of the origin's connection")
				})
			})
		})
	}
}

// A client that goes away during its upload does not leave the origin a
// request that looks whole.
func TestUpload_ClientCancels(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			arrived, ended := make(chan struct{}, 1), make(chan string, 1)
			origin := newRawOrigin(t, func(oc *originConn) {
				oc.head()
				line, _ := oc.br.ReadString('\n')
				if line != "5\r\n" {
					oc.fail("chunk size %q", line)
				}
				_, _ = oc.br.Discard(7)
				arrived <- struct{}{}
				_ = oc.awaitEnd()
				ended <- oc.seen.String()
			})
			pr, pw := io.Pipe()
			r, cancel := withCancel(c.newRequest(t, "POST", origin.url("/"), pr))
			result := make(chan error, 1)
			go func() {
				resp, err := c.rt.RoundTrip(r)
				if err == nil {
					resp.Body.Close()
					err = fmt.Errorf("status %d", resp.StatusCode)
				}
				result <- err
			}()
			write(t, pw, "begin")
			await(t, arrived, "the upload at the origin")
			cancel()
			pw.CloseWithError(io.ErrUnexpectedEOF)
			await(t, result, "the client")
			if saw := await(t, ended, "the end of the origin's connection"); strings.HasSuffix(saw, "0\r\n\r\n") {
				t.Errorf("the cut upload was ended as if whole: %q", saw)
			}
		})
	})
}

// A body cut short by the client (fewer bytes than its length) likewise.
func TestUpload_CutShort(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachH1(t, func(t *testing.T, kind string) {
			for _, framing := range []string{"Content-Length: 10\r\n\r\nbegin", "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n", "Transfer-Encoding: chunked\r\n\r\na\r\nbegin"} {
				ended := make(chan string, 1)
				origin := newRawOrigin(t, func(oc *originConn) {
					_ = oc.awaitEnd()
					ended <- oc.seen.String()
				})
				raw := p.dialH1(t, kind)
				raw.send("POST " + origin.url("/") + " HTTP/1.1\r\nHost: x\r\n" + framing)
				await(t, origin.conns, "the origin's connection")
				_ = raw.CloseWrite()
				saw := await(t, ended, "the end of the origin's connection")
				if strings.HasSuffix(saw, "0\r\n\r\n") || strings.Contains(saw, "Content-Length: 5\r\n") {
					t.Errorf("%q arrived as if whole: %q", framing, saw)
				}
			}
		})
	})
}

// Both directions are flushed as they come: each chunk is sent only after
// the one before has arrived.
func TestStream_DownloadFlushed(t *testing.T) {
	for _, framing := range []string{"chunked", "length", "close"} {
		t.Run(framing, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				eachClient(t, p, func(t *testing.T, c *client) {
					next := make(chan struct{})
					origin := newRawOrigin(t, func(oc *originConn) {
						oc.head()
						switch framing {
						case "chunked":
							oc.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
						case "length":
							oc.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
						case "close":
							oc.send("HTTP/1.1 200 OK\r\n\r\n")
						}
						for i := range 10 {
							oc.hold(next)
							part := fmt.Sprintf("no%d", i)
							if framing == "chunked" {
								part = "3\r\n" + part + "\r\n"
							}
							oc.send(part)
						}
						oc.hold(next)
						if framing == "chunked" {
							oc.send("0\r\n\r\n")
						}
					})
					// The head must come before the first byte of the body.
					resp, err := c.rt.RoundTrip(c.newRequest(t, "GET", origin.url("/"), nil))
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					for i := range 10 {
						next <- struct{}{}
						if got, want := readN(t, resp.Body, 3), fmt.Sprintf("no%d", i); got != want {
							t.Fatalf("got %q, want %q", got, want)
						}
					}
					next <- struct{}{}
					if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
						t.Errorf("rest %q, %v", rest, err)
					}
				})
			})
		})
	}
}

func TestStream_UploadFlushed(t *testing.T) {
	for _, length := range []int64{-1, 33} {
		t.Run(fmt.Sprintf("length=%d", length), func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := startUsual(t, m)
				parts, lengths := make(chan string), make(chan int64, 1)
				origin := newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
					lengths <- r.ContentLength
					b := make([]byte, 3)
					for {
						if _, err := io.ReadFull(r.Body, b); err != nil {
							break
						}
						select {
						case parts <- string(b):
						case <-r.Context().Done():
							return
						}
					}
					_, _ = io.WriteString(w, "done")
				})
				eachClient(t, p, func(t *testing.T, c *client) {
					pr, pw := io.Pipe()
					defer pw.Close()
					r := c.newRequest(t, "PUT", origin.URL+"/", pr)
					r.ContentLength = length
					answer := c.goTry(r)
					for i := range 10 {
						want := fmt.Sprintf("no%d", i)
						write(t, pw, want)
						if got := await(t, parts, "a part at the origin"); got != want {
							t.Fatalf("the origin got %q, want %q", got, want)
						}
					}
					// Clients hold the last of a known length back for the end.
					write(t, pw, "end")
					pw.Close()
					if got := await(t, parts, "the last part at the origin"); got != "end" {
						t.Errorf("the origin got %q last", got)
					}
					if got := await(t, lengths, "the length"); got != length {
						t.Errorf("the origin saw length %d, want %d", got, length)
					}
					await(t, answer, "the response").must(t).expect(t, 200, "done")
				})
			})
		})
	}
}

// A body larger than any buffer, both ways, arrives unchanged.
func TestStream_LargeBodies(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newHTTPOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(b)
		})
		big := bulk()
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, length := range []int64{-1, int64(len(big))} {
				r := c.newRequest(t, "POST", origin.URL+"/", io.NopCloser(strings.NewReader(big)))
				r.ContentLength = length
				resp := c.do(t, r)
				if resp.StatusCode != 200 || resp.bodyErr != nil || resp.body != big {
					t.Errorf("length %d: got %d, %d bytes of %d, %v", length, resp.StatusCode, len(resp.body), len(big), resp.bodyErr)
				}
			}
		})
	})
}
