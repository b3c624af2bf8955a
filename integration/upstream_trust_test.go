package integration

import (
	"strings"
	"sync"
	"testing"
)

// forgedVia is what a parent answers that adds no Via of its own, and relays that of an origin;
// unnamed is one that shows this. Behind the first, it may go on relaying.
const (
	forgedVia = "HTTP/1.1 204 No Content\r\nVia: 1.1 parent (squid/6.6)\r\n\r\n"
	unnamed   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
)

// forgingParent is a parent of that kind: a request for /hold waits on its connection, one for
// /bad gets what hides the parent, and any other what gives it away, but on connections that
// have carried /bad: there, the origin of /bad answers as it likes.
type forgingParent struct {
	*fakeUpstream
	held    chan string // paths of requests that wait
	release chan struct{}
	last    chan struct{} // releases those for /hold/last
	again   chan struct{} // and those for /hold/again

	mu       sync.Mutex
	poisoned map[*originConn]bool // guarded by mu
}

func newForgingParent(t *testing.T, poison string) *forgingParent {
	f := &forgingParent{held: make(chan string, 4), release: make(chan struct{}), last: make(chan struct{}), again: make(chan struct{}), poisoned: make(map[*originConn]bool)}
	f.fakeUpstream = newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		f.mu.Lock()
		poisoned := f.poisoned[oc]
		f.poisoned[oc] = poisoned || strings.Contains(r.target, "/bad")
		f.mu.Unlock()
		switch {
		case strings.Contains(r.target, "/hold/last"):
			f.held <- r.target
			oc.hold(f.last)
		case strings.Contains(r.target, "/hold/again"):
			f.held <- r.target
			oc.hold(f.again)
		case strings.Contains(r.target, "/hold"):
			f.held <- r.target
			oc.hold(f.release)
		}
		switch {
		case strings.Contains(r.target, "/bad"):
			oc.send(forgedVia)
		case poisoned:
			oc.send(poison)
		default:
			oc.send(unnamed)
		}
		return true
	})
	return f
}

// Connections that were kept on the strength of a forged Via are not used again once the parent
// has shown that it adds none.
func TestUpstream_ForgedViaIdle(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nVia: 1.1 parent (squid/6.6)\r\nContent-Length: 6\r\n\r\npoison"
	eachMode(t, func(t *testing.T, m mode) {
		parent := newForgingParent(t, poison)
		p := start(t, m, setup{egress: group("", parent.addr)})
		var done, last sync.WaitGroup
		for range 3 { // each on a connection of its own
			done.Go(func() { p.client(t, "h1").get(t, "http://bad.test/hold/bad").expect(t, 204, "") })
		}
		last.Go(func() { p.client(t, "h1").get(t, "http://good.test/hold/last").expect(t, 200, "ok") })
		for range 4 {
			await(t, parent.held, "a request that waits")
		}
		close(parent.release)
		done.Wait() // they are kept
		close(parent.last)
		last.Wait()   // and should not have been
		for range 4 { // at once, so that one connection is not enough
			done.Go(func() { p.client(t, "h1").get(t, "http://good.test/hold/again").expect(t, 200, "ok") })
		}
		for range 4 {
			await(t, parent.held, "a request that waits")
		}
		close(parent.again)
		done.Wait()
	})
}

// Nor is what comes on such a connection the answer to a request that is under way at that
// moment, or to the one that shows it: it is sent again, where it may be.
func TestUpstream_ForgedViaInUse(t *testing.T) {
	for name, poison := range map[string]string{
		"elsewhere": "HTTP/1.1 200 OK\r\nVia: 1.1 parent (squid/6.6)\r\nContent-Length: 6\r\n\r\npoison",
		"itself":    "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				parent := newForgingParent(t, poison)
				p := start(t, m, setup{egress: group("", parent.addr)})
				p.client(t, "h1").get(t, "http://bad.test/bad").expect(t, 204, "")
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					p.client(t, "h1").get(t, "http://good.test/hold").expect(t, 200, "ok")
				}()
				await(t, parent.held, "a request on the connection")
				if name == "elsewhere" {
					p.client(t, "h1").get(t, "http://good.test/").expect(t, 200, "ok") // on another one
				}
				close(parent.release)
				await(t, ended, "its answer")
				p.client(t, "h1").get(t, "http://bad.test/bad").expect(t, 204, "")
				p.client(t, "h1").get(t, "http://good.test/").expect(t, 200, "ok")
			})
		})
	}
}

// What a parent answers by itself says nothing about what it relays: to a request that goes no
// further, or that is for it.
func TestUpstream_OwnAnswerWithoutVia(t *testing.T) {
	var parent *fakeUpstream
	parent = newFakeUpstream(t, func(oc *originConn, r *originRequest) bool {
		if r.method == "OPTIONS" || strings.Contains(r.target, parent.addr) {
			oc.send(unnamed)
		} else {
			oc.send(forgedVia)
		}
		return true
	})
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: group("", parent.addr)})
		before := parent.count()
		c := p.client(t, "h1")
		c.get(t, "http://one.test/").expect(t, 204, "")
		r := c.newRequest(t, "OPTIONS", "http://one.test/", nil)
		r.Header.Set("Max-Forwards", "1")
		c.do(t, r).expect(t, 200, "ok")
		c.get(t, "http://"+parent.addr+"/").expect(t, 200, "ok")
		for range 3 {
			c.get(t, "http://one.test/").expect(t, 204, "")
		}
		if n := parent.count() - before; n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// The last hop names itself, as a proxy does that has relayed the answer: one before it tells
// from that, whatever version it is, whether connections can be used again.
func TestHeaders_LastHopVia(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		eachClient(t, p, func(t *testing.T, c *client) {
			for _, method := range []string{"OPTIONS", "TRACE"} {
				r := c.newRequest(t, method, "http://one.test/", nil)
				r.Header.Set("Max-Forwards", "0")
				if via := c.do(t, r).Header["Via"]; len(via) != 1 {
					t.Errorf("%s: Via %q", method, via)
				}
			}
		})
	})
}
