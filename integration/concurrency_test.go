package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Two hundred clients of all protocols, requests with tags, origins that
// close connections at random and in every state: no answer reaches another
// client than the one that asked, and none is cut without being seen to be.
func TestConcurrent_NoMixUp(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit off\ntransport {\n max_conns_per_host off\n max_pending_per_host 4096\n}\n"})
		answer := func(tag string, n int) string { return strings.Repeat("<"+tag+">", n) }
		origins := make([]*rawOrigin, 3)
		for i := range origins {
			origins[i] = newRawOrigin(t, func(oc *originConn) {
				rng := rand.New(rand.NewPCG(uint64(i), uint64(oc.number)))
				for {
					r := oc.request()
					tag := strings.TrimPrefix(r.target, "/")
					if r.body != "" && r.body != tag {
						oc.fail("request %q came with the body %q", tag, r.body)
					}
					body := answer(tag, 1+rng.IntN(200))
					switch rng.IntN(12) {
					case 0: // dies before the answer
						return
					case 1: // dies within
						oc.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)/2]))
						return
					case 2: // dies behind it, unannounced
						oc.ok(body)
						return
					case 3: // says more than it should
						oc.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body) +
							"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
					case 4:
						oc.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body))
					case 5:
						oc.reset()
						return
					default:
						oc.ok(body)
					}
				}
			})
		}
		var good, failed atomic.Int64
		var wg sync.WaitGroup
		clients := 200
		if testing.Short() {
			clients = 40
		}
		for i := range clients {
			c := p.client(t, clientKinds[i%len(clientKinds)])
			wg.Go(func() {
				for n := range 10 {
					tag := fmt.Sprintf("c%dn%d", i, n)
					method, body := http.MethodGet, io.Reader(nil)
					if n%2 == 1 {
						method, body = http.MethodPost, strings.NewReader(tag)
					}
					resp, err := c.try(c.newRequest(t, method, origins[(i+n)%3].url("/"+tag), body))
					switch {
					case err != nil || resp.StatusCode == 502:
						failed.Add(1)
					case resp.StatusCode != 200:
						t.Errorf("%s: status %d %q", tag, resp.StatusCode, resp.Header["Proxy-Status"])
					case strings.ReplaceAll(resp.body, "<"+tag+">", "") != "" && resp.bodyErr == nil:
						t.Errorf("%s got the answer %.100q", tag, resp.body)
					case resp.bodyErr != nil && !strings.HasPrefix(strings.Repeat("<"+tag+">", 201), resp.body):
						t.Errorf("%s got a piece of %.100q", tag, resp.body)
					case resp.bodyErr != nil:
						failed.Add(1)
					default:
						good.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if good.Load() < failed.Load() {
			t.Errorf("%d good answers, %d failures", good.Load(), failed.Load())
		}
	})
}
