package integration

import (
	"io"
	"net/http"
	"syscall"
	"testing"
)

// A handler is known by its name: reloads that leave it as it is, change it or move
// it keep its tunnels, whatever close_delay is. One that is gone has its tunnels
// ended after close_delay, unless it comes back by then.
func TestDrain_Reload(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	const atOnce, later, never = "tunnel {\n close_delay 0\n}\n", "tunnel {\n close_delay 5s\n}\n", "tunnel {\n close_delay 1h\n}\n"
	p.start(t, processSetup{egress: atOnce})
	tunnels := p.openIdle(t, echo.addr)
	check := func(when string) {
		t.Helper()
		for kind, tun := range tunnels {
			alive(t, tun, when+": "+kind)
		}
	}
	p.load(t, processSetup{egress: atOnce})
	check("unchanged")
	p.load(t, processSetup{egress: atOnce + "hide_via\n"})
	check("changed")
	p.load(t, processSetup{egress: never, plain: p.elsewhere})
	check("moved")
	gone := "handler is gone; its tunnels have a while left"
	p.load(t, processSetup{egress: "none"})
	p.logs.awaitLines(t, gone, 2, func(l logLine) bool { return l.str("msg") == gone })
	check("removed")
	p.load(t, processSetup{egress: later})
	check("back")
	p.load(t, processSetup{egress: "none"})
	check("removed again")
	for kind, tun := range tunnels {
		drained(t, tun, kind)
		tun.Close()
	}
	p.logs.awaitLines(t, "the lines of the tunnels", len(clientKinds), func(l logLine) bool {
		return l.isAccess() && l.str("egress.close_reason") == "drain"
	})
	p.signal(t, syscall.SIGTERM)
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "drain", len(clientKinds))
}

// A handler that was removed before the process exits: its tunnels still have their
// time, and the process waits for them.
func TestDrain_RemovedBeforeExit(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{egress: "tunnel {\n close_delay 5s\n}\n"})
	tunnels := p.openIdle(t, echo.addr, "h1", "h1tls") // Caddy waits for the others
	p.load(t, processSetup{egress: "none"})
	p.signal(t, syscall.SIGTERM)
	p.awaitLog(t, "shutting down apps, then terminating")
	for kind, tun := range tunnels {
		alive(t, tun, kind)
	}
	for kind, tun := range tunnels {
		drained(t, tun, kind)
		tun.Close()
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// The grace period is the limit at exit for tunnels whose handler has gone before as well:
// the process takes no close_delay then, and the tunnels end in order.
func TestDrain_RemovedBeforeExit_GracePeriod(t *testing.T) {
	p, echo := reserve(t), newEchoOrigin(t)
	t.Parallel()
	const grace = "grace_period 3s"
	p.start(t, processSetup{global: grace, egress: "tunnel {\n close_delay 1h\n}\n"})
	tunnels := p.openIdle(t, echo.addr, "h1", "h1tls", "h2")
	p.load(t, processSetup{global: grace, egress: "none"})
	for kind, tun := range tunnels {
		alive(t, tun, kind)
	}
	p.signal(t, syscall.SIGTERM)
	for kind, tun := range tunnels {
		drained(t, tun, kind)
		tun.Close()
	}
	if code := p.exit(t); code != 0 { // which waits for less than the hour
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "drain", len(tunnels))
}

// On an HTTP/1.1 connection that is kept alive, what comes behind the exchange that
// was under way at exit is not served: the response says that the connection closes,
// and so it does. A CONNECT that was under way gets its tunnel, for what is left of
// close_delay.
func TestDrain_UnderWay(t *testing.T) {
	p := reserve(t)
	release, arrived := newGate(), make(chan struct{}, 16)
	t.Cleanup(release.open)
	origin := newRawOrigin(t, func(oc *originConn) {
		oc.request()
		arrived <- struct{}{}
		oc.hold(release.c)
		oc.ok("finished")
	})
	upstream := newRawOrigin(t, func(oc *originConn) {
		oc.request()
		arrived <- struct{}{}
		oc.hold(release.c)
		oc.send("HTTP/1.1 200 OK\r\n\r\nhello")
		_, _ = oc.br.ReadByte()
	})
	echo := newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{egress: "tunnel {\n close_delay 5s\n}\nroute {\n match {\n host held.test\n }\n to parents\n}\nroute direct\n" +
		"upstreams parents {\n upstream http://" + upstream.addr + "\n attempt_timeout 10s\n}\n"})
	idle := p.openIdle(t, echo.addr)
	conns := map[string]*rawConn{}
	opening := map[string]*rawConn{}
	for _, kind := range []string{"h1", "h1tls"} {
		conns[kind], opening[kind] = p.dialH1(t, kind), p.dialH1(t, kind)
		conns[kind].send("GET " + origin.url("/") + " HTTP/1.1\r\nHost: " + origin.addr + "\r\n\r\n" +
			"CONNECT " + echo.addr + " HTTP/1.1\r\nHost: " + echo.addr + "\r\n\r\n")
		await(t, arrived, "the exchange of "+kind)
		opening[kind].send("CONNECT held.test:443 HTTP/1.1\r\nHost: held.test:443\r\n\r\n")
		await(t, arrived, "the CONNECT of "+kind)
	}
	p.signal(t, syscall.SIGTERM)
	p.awaitExiting(t)
	release.open()
	for kind, c := range conns {
		resp := c.response(http.MethodGet)
		if resp.StatusCode != 200 || resp.body != "finished" || !resp.Close {
			t.Errorf("%s: %d %q, header %v; want a response that closes", kind, resp.StatusCode, resp.body, resp.Header)
		}
		if rest, err := io.ReadAll(c); len(rest) > 0 {
			t.Errorf("%s: behind the response came %q, %v", kind, rest, err)
		}
	}
	for kind, c := range opening {
		if resp := c.responseHead(http.MethodConnect); resp.StatusCode != 200 {
			t.Errorf("%s: CONNECT was answered %d", kind, resp.StatusCode)
			continue
		}
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("%s: the tunnel has brought %q, %v", kind, got, err)
		}
		c.Close()
	}
	for kind, tun := range idle {
		drained(t, tun, kind)
		tun.Close()
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.expectReasons(t, "drain", len(clientKinds)+2)
}
