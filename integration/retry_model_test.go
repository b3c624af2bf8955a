package integration

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// The points at which a connection to the origin dies under a request.
const (
	dieIdle     = "while idle"        // before the request is sent
	dieHead     = "after the head"    // with the body unread
	dieRequest  = "after the request" // all of it was read
	dieInHead   = "within the response head"
	dieInBody   = "within the response body"
	dieNever    = "never"
	hasBodyRoom = 64 << 10 // what is kept of a body to be sent again
)

// seenRequests counts the requests that an origin saw, by their targets.
type seenRequests struct {
	mu sync.Mutex
	n  map[string]int
}

func (s *seenRequests) saw(target string) (times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n[target]++
	return s.n[target]
}

func (s *seenRequests) times(target string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[target]
}

// upstream.md §1, retries: whatever dies when, on whatever connection, an origin
// sees a request twice only where the table says so, and a request that must not
// be repeated never. The target of a request tells its origin what to do.
func TestRetry_Model(t *testing.T) {
	eachOrigin(t, func(t *testing.T, begin beginOrigin) {
		eachMode(t, func(t *testing.T, m mode) {
			p := start(t, m, trusting(t))
			seen := &seenRequests{n: make(map[string]int)}
			n := 0
			rapid.Check(t, func(rt *rapid.T) {
				n++
				tc := retryCase{
					method:  rapid.SampledFrom([]string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"}).Draw(rt, "method"),
					reused:  rapid.Bool().Draw(rt, "reused"),
					death:   rapid.SampledFrom([]string{dieIdle, dieHead, dieRequest, dieInHead, dieInBody, dieNever}).Draw(rt, "death"),
					reset:   rapid.Bool().Draw(rt, "reset"),
					chunked: rapid.Bool().Draw(rt, "chunked"),
					target:  fmt.Sprintf("/%d", n),
				}
				if tc.method != "GET" && tc.method != "HEAD" {
					tc.size = rapid.SampledFrom([]int{0, 1, 3000, 40 << 10, hasBodyRoom, hasBodyRoom + 1, 300 << 10}).Draw(rt, "size")
				}
				tc.run(t, rt, p, begin, seen)
			})
		})
	})
}

// retryCase is one request and the fate of its first connection.
type retryCase struct {
	method  string
	reused  bool
	death   string
	reset   bool
	chunked bool
	size    int
	target  string
}

func (tc *retryCase) run(t *testing.T, rt *rapid.T, p *proxy, begin beginOrigin, seen *seenRequests) {
	idle, gone := make(chan struct{}), make(chan struct{})
	origin, url := begin(t, func(oc *originConn) { tc.script(oc, seen, idle, gone) })
	if tc.reused {
		if resp := p.dialPlain(t).roundTrip("GET", "GET "+url+"/warm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); resp.body != "warm" {
			rt.Fatalf("warming: %d %q", resp.StatusCode, resp.body)
		}
	}
	if tc.death == dieIdle && tc.reused {
		close(idle)
		await(t, gone, "the death of the idle connection")
	}
	raw := p.dialPlain(t)
	defer raw.Close()
	raw.trySend(tc.request(url))
	resp := raw.response(tc.method)
	times := seen.times(tc.target)
	ok := resp.StatusCode == http.StatusOK && resp.err == nil && (tc.method == "HEAD" || resp.body == "done")
	idempotent := tc.method != "POST" && tc.method != "PATCH"
	switch {
	case !idempotent && times > 1:
		rt.Fatalf("%+v: the origin saw it %d times", tc, times)
	case tc.death == dieNever, tc.death == dieIdle, tc.death == dieInBody && tc.method == "HEAD":
		if !ok || times != 1 {
			rt.Fatalf("%+v: got %d %q, seen %d times; want 200 and once", tc, resp.StatusCode, resp.body, times)
		}
	case tc.reused && idempotent && tc.size == 0 && tc.diesUnanswered(), tc.reused && idempotent && tc.size <= hasBodyRoom && tc.death == dieRequest:
		if !ok || times != 2 {
			rt.Fatalf("%+v: got %d %q, seen %d times; want 200 and twice", tc, resp.StatusCode, resp.body, times)
		}
	case tc.reused && idempotent && tc.size <= hasBodyRoom && tc.diesUnanswered():
		// Died with the body unread: sent again where the whole of it had come
		// from the client by then.
		if times > 2 || ok != (times == 2) {
			rt.Fatalf("%+v: got %d %q, seen %d times", tc, resp.StatusCode, resp.body, times)
		}
	default:
		if ok || times != 1 {
			rt.Fatalf("%+v: got %d %q, seen %d times; want a failure and once", tc, resp.StatusCode, resp.body, times)
		}
	}
	if origin.count() > 2 {
		rt.Fatalf("%+v: %d connections", tc, origin.count())
	}
}

func (tc *retryCase) diesUnanswered() bool { return tc.death == dieHead || tc.death == dieRequest }

func (tc *retryCase) body() string { return strings.Repeat("b", tc.size) }

// request is the request as the client sends it.
func (tc *retryCase) request(url string) string {
	head := tc.method + " " + url + tc.target + " HTTP/1.1\r\nHost: x\r\n"
	body := tc.body()
	switch {
	case tc.size == 0:
		return head + "\r\n"
	case tc.chunked:
		return head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", tc.size, body)
	}
	return head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", tc.size, body)
}

// script serves a connection: the one that the request meets first dies.
func (tc *retryCase) script(oc *originConn, seen *seenRequests, idle, gone chan struct{}) {
	die := func() {
		if tc.reset {
			oc.reset()
		} else {
			oc.Close()
		}
	}
	if oc.number > 1 {
		tc.serve(oc, seen, func() {})
		return
	}
	if tc.reused {
		oc.request()
		oc.ok("warm")
		if tc.death == dieIdle {
			oc.hold(idle)
			die()
			close(gone)
			return
		}
	}
	tc.serve(oc, seen, die)
}

// serve reads one request and dies where it is to, unless die does nothing.
func (tc *retryCase) serve(oc *originConn, seen *seenRequests, die func()) {
	first := oc.number == 1
	if first && tc.death == dieHead {
		oc.head()
		seen.saw(tc.target)
		die()
		return
	}
	if r := oc.request(); r.body != tc.body() {
		oc.t.Errorf("%+v: the origin got %d bytes of the body, and this head: %q", tc, len(r.body), r.head)
	}
	seen.saw(tc.target)
	switch {
	case !first, tc.death == dieNever, tc.death == dieIdle:
		oc.ok("done")
	case tc.death == dieRequest:
		die()
	case tc.death == dieInHead:
		oc.send("HTTP/1.1 200 O")
		oc.closeWrite()
	case tc.death == dieInBody:
		oc.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndo")
		oc.closeWrite()
	}
}
