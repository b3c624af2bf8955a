package integration

import (
	"net/http"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress"
)

// This file contains what a reload does to upstreams.

// running are the egress handlers of the configuration that runs.
func running(t *testing.T) (found []weak.Pointer[egress.Handler]) {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	var walk func(caddyhttp.RouteList)
	walk = func(routes caddyhttp.RouteList) {
		for _, r := range routes {
			for _, h := range r.Handlers {
				switch h := h.(type) {
				case *caddyhttp.Subroute:
					walk(h.Routes)
				case *egress.Handler:
					found = append(found, weak.Make(h))
				}
			}
		}
	}
	for _, s := range app.(*caddyhttp.App).Servers {
		walk(s.Routes)
	}
	if len(found) == 0 {
		t.Fatal("no handler is running")
	}
	return found
}

// expectCollected waits until handlers are garbage.
func expectCollected(t *testing.T, within time.Duration, handlers []weak.Pointer[egress.Handler]) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC()
		var left []int
		for i, h := range handlers {
			if h.Value() != nil {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("of %d old handlers some are still in memory: %v", len(handlers), left)
		}
	}
}

// A reload that leaves an upstream as it is leaves its connections and its health,
// an open circuit and the result of checks included; the old handlers are garbage.
func TestUpstreamReload_Unchanged(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	broken, down, good := newScriptedUpstream(t, "broken"), newScriptedUpstream(t, "down"), newScriptedUpstream(t, "good")
	down.behave(only(echo.addr, answering(502)))
	events := newTransitions(t)
	egressWith := func(more string) string {
		return usual + more + groupOf("lb_policy round_robin\nhealth_check connect "+echo.addr+"\nhealth_interval 100ms\ncircuit {\nopen_for 1m\npanic_below 0%\n}\n", broken, down, good)
	}
	p := start(t, mode{}, setup{egress: egressWith(""), global: events.global()})
	origin := okOrigin(t)
	c := p.client(t, "h1")
	broken.behave(func(w http.ResponseWriter, r *http.Request) bool { return r.Host != echo.addr && closing(w, r) })
	keepBusy(t, p, origin.URL)
	events.await(t, down, "unhealthy")
	eject(t, c, origin.URL, events, broken)
	broken.behave(nil)
	tun := p.client(t, "h1").open(t, echo.addr)
	pooled := pooledConn(t, c, origin.URL, good)

	for _, name := range []string{"first", "second", "third"} {
		old := running(t)
		p.reload(t, setup{egress: egressWith("server_name " + name + "\n"), global: events.global()})
		for range 5 {
			if got := p.getAfterReload(t, origin.URL); got.Header.Get("Served-By") != "good" {
				t.Errorf("after the reload served by %s", got.Header.Get("Served-By"))
			}
		}
		if !good.connected(pooled) {
			t.Error("a reload has closed the connection to the upstream")
		}
		if name == "first" {
			alive(t, tun, "the tunnel")
			tun.Close() // it belongs to the old handler
		}
		c.h1.CloseIdleConnections()
		expectCollected(t, 2*patience, old)
	}
	down.behave(nil)
	events.await(t, down, "unhealthy", "healthy")
	events.expect(t, p, map[*scriptedUpstream][]string{broken: {"circuit_open"}, down: {"unhealthy", "healthy"}, good: nil})
}

// pooledConn is the remote address by which an upstream sees the connection of a
// request.
func pooledConn(t *testing.T, c *client, url string, u *scriptedUpstream) (addr string) {
	t.Helper()
	u.asked()
	if got := c.get(t, url); got.Header.Get("Served-By") != u.name {
		t.Fatalf("served by %q, want %s", got.Header.Get("Served-By"), u.name)
	}
	for _, r := range u.asked() {
		if r.Method == http.MethodGet {
			addr = r.RemoteAddr
		}
	}
	return addr
}

// With other credentials it is another upstream: what is idle is closed, tunnels live
// on, and new requests use the new credentials over new connections.
func TestUpstreamReload_Credentials(t *testing.T) {
	checkLeaks(t)
	u := newScriptedUpstream(t, "u")
	config := func(password string) setup {
		return setup{egress: usual + groupOf("credentials alice "+password+"\n", u)}
	}
	p := start(t, mode{}, config("one"))
	origin, echo := okOrigin(t), newEchoOrigin(t)
	c := p.client(t, "h1")
	before := pooledConn(t, c, origin.URL, u)
	tun := p.client(t, "h1").open(t, echo.addr)
	old := running(t)
	p.reload(t, config("two"))
	eventually(t, "the end of the idle connection", func() bool { return !u.connected(before) })
	alive(t, tun, "the tunnel")
	u.asked()
	p.getAfterReload(t, origin.URL).expect(t, 200, "ok")
	for _, r := range u.asked() {
		if got, want := r.Header.Get("Proxy-Authorization"), basic("alice", "two"); got != want || r.RemoteAddr == before {
			t.Errorf("%s %s with %q over %s, want %q", r.Method, r.Host, got, r.RemoteAddr, want)
		}
	}
	tun.Close()
	c.h1.CloseIdleConnections()
	expectCollected(t, 2*patience, old)
}

// connected reports whether a connection from an address is open.
func (u *scriptedUpstream) connected(addr string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for c := range u.all {
		if c.RemoteAddr().String() == addr {
			return true
		}
	}
	return false
}

// Checks that a reload finds under way go on and count, so that an upstream that hangs is
// found out however many reloads there are; and none goes on after the configuration has gone.
func TestUpstreamReload_ChecksUnderWay(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
	events := newTransitions(t)
	config := func(name string) setup {
		return setup{
			egress: usual + "server_name " + name + "\n" + groupOf("health_check connect "+echo.addr+"\nhealth_interval 100ms\nhealth_timeout 6s\nhealth_fails 2\n", u, other),
			global: events.global(),
		}
	}
	p := start(t, mode{}, config("first"))
	keepBusy(t, p, okOrigin(t).URL)
	awaitAsked(t, u, echo.addr)
	awaitAsked(t, u, echo.addr) // so the first check has passed
	left := make(chan struct{}, 64)
	u.behave(only(echo.addr, func(w http.ResponseWriter, r *http.Request) bool {
		defer func() { left <- struct{}{} }()
		return silent(w, r)
	}))
	// As many as put it out.
	for _, name := range []string{"second", "third"} {
		awaitAsked(t, u, echo.addr)
		p.reload(t, config(name))
		await(t, left, "the end of the check")
	}
	events.await(t, u, "unhealthy")
	u.behave(nil)
	events.expect(t, p, map[*scriptedUpstream][]string{u: {"unhealthy", "healthy"}, other: nil})
}
