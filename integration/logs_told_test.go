package integration

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// This file contains what lines of the log tell an operator who asks: whom, what, since when.

// A failed login names the user that was tried and the client, of which only what is
// printable, and not much. One line a second is written; what was withheld is told.
func TestLogs_Login(t *testing.T) {
	checkLeaks(t)
	p := start(t, mode{access: true}, setup{egress: fmt.Sprintf("hosts proxy.test\nbasic_auth %s \"%s\"\n", theUser, thePassword) + openLoopback})
	c := p.client(t, "h1")
	try := func(user string) {
		t.Helper()
		r := c.newRequest(t, "GET", "http://o.test/", nil)
		r.Header.Set("Proxy-Authorization", basic(user, "wrong-secret"))
		if resp := c.do(t, r); resp.StatusCode != 407 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	failed := func(user, why string) {
		t.Helper()
		l := p.logs.wait(t, "the failed login of "+user, func(l logLine) bool { return l.str("msg") == "login failed" && l.str("auth_user") == user })
		if l.str("level") != "info" || l.str("auth_error") != why || l.str("client") != "127.0.0.1" || l.str("handler") == "" {
			t.Errorf("%v", l)
		}
		p.logs.wait(t, "the access log of "+user, func(l logLine) bool {
			return l.isAccess() && l.str("egress.auth_user") == user && l.str("egress.auth_error") == why && l.str("request.remote_ip") == "127.0.0.1"
		})
	}
	try("e\x1b[31mve\n" + strings.Repeat("x", 100))
	failed("e\ufffd[31mve\ufffd"+strings.Repeat("x", 64-len("e\x1b[31mve\n"))+"…", "unknown_user")
	try(theUser)
	failed(theUser, "bad_password")
	for range 5 {
		try("eve")
	}
	told := 0.0
	p.logs.wait(t, "that others were withheld", func(l logLine) bool {
		if l.str("because") == "unknown_user" || l.str("msg") == "login failed" && l.str("level") == "info" && l.str("auth_error") == "unknown_user" {
			told += max(l.num("withheld"), 0)
			if l.str("auth_user") == "eve" {
				told++
			}
		}
		return told == 5
	})
}

// An address that is refused is named beside the rule; a denying route by its number.
func TestLogs_Denied(t *testing.T) {
	checkLeaks(t)
	p := start(t, mode{access: true}, setup{
		egress: "allow_unauthenticated\nhosts proxy.test\ntransport {\nhosts_override two.test 10.1.2.3\n}\nacl {\ndeny 10.0.0.0/8\n}\n" +
			"route {\nmatch {\nheader X-To direct\n}\nto direct\n}\nroute {\nmatch {\nheader X-To nowhere\n}\nto deny\n}\n",
	})
	c := p.client(t, "h1")
	ask := func(host, to string) string {
		t.Helper()
		r := c.newRequest(t, "GET", "http://"+host+"/", nil)
		r.Header.Set("X-To", to)
		if resp := c.do(t, r); resp.StatusCode != 403 {
			t.Errorf("status %d", resp.StatusCode)
		}
		return p.logs.access(t, "GET", host).str("egress.error")
	}
	if got, want := ask("two.test", "direct"), "10.1.2.3: destination address not allowed (deny 10.0.0.0/8)"; !strings.HasSuffix(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	got := ask("one.test", "nowhere")
	if !strings.Contains(got, "route 2 (") || !strings.Contains(got, "X-To") || !strings.HasSuffix(got, "denies it") {
		t.Errorf("%q", got)
	}
}

// A limit that is reached is told with the handler, the user and the client.
func TestLogs_Limit(t *testing.T) {
	checkLeaks(t)
	events, logs := subscribe(t), newLogCapture(t)
	addr := freeAddr(t)
	load(t, globals{grace: "2s", storage: t.TempDir(), more: "skip_install_trust\n" + logs.asDefault("level INFO") + "\n" + events.global("limit_reached")}.String()+"\n"+
		plainSite(addr, "", fmt.Sprintf("name only\nbasic_auth %s \"%s\"\ntunnel {\nmax_per_user 1\n}\n", theUser, thePassword)+openLoopback))
	p := &proxy{plain: addr, logs: logs}
	echo := newEchoOrigin(t)
	login := http.Header{"Proxy-Authorization": {basic(theUser, thePassword)}}
	c := p.client(t, "h1")
	_, standing := c.connect(t, echo.addr, "", login)
	defer standing.Close()
	for range 3 {
		resp, tun := c.connect(t, echo.addr, "", login)
		tun.Close()
		if resp.StatusCode != 503 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	data := events.next(t, "limit_reached", "only")
	if data["limit"] != "tunnel.max_per_user" || data["user"] != theUser || data["client"] != "127.0.0.1" {
		t.Errorf("%v", data)
	}
	logs.line(t, "limit reached: requests are refused", "warn", data)
	l := logs.wait(t, "the request", func(l logLine) bool { return l.str("msg") == "request failed" })
	if l.str("handler") != "only" || l.str("user") != theUser || l.str("limit") != "tunnel.max_per_user" {
		t.Errorf("%v", l)
	}
	logs.wait(t, "those that were withheld", func(l logLine) bool {
		return l.str("msg") == "request failed, as others before" && l.num("withheld") == 2
	})
	events.none(t)
}

// A request that left over a fallback is marked, and an opened circuit has the last error.
func TestLogs_Fallback(t *testing.T) {
	checkLeaks(t)
	origin := okOrigin(t)
	events := subscribe(t)
	one, two := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two")
	one.down()
	two.down()
	p := start(t, mode{access: true}, setup{
		egress: usual + groupOf("circuit {\nconsecutive_failures 1\n}\n", one, two) + "route default fallback direct\n",
		global: events.global("circuit_open"),
	})
	p.client(t, "h1").get(t, origin.URL+"/").expect(t, 200, "ok")
	l := p.logs.wait(t, "the request", func(l logLine) bool { return l.isAccess() && l.str("request.method") == "GET" })
	if l.str("egress.fallback_from") != "default" || l.str("egress.path") != "direct" || l.at("egress.group") != nil {
		t.Errorf("%v", l)
	}
	l = p.logs.wait(t, "the circuit", func(l logLine) bool { return l.str("msg") == "upstream fails: circuit opened" })
	if !strings.Contains(l.str("error"), "connection refused") {
		t.Errorf("%v", l)
	}
	e := await(t, events.got, "the event")
	if e.Data["error"] != l.str("error") || e.Data["reason"] != "consecutive_failures" {
		t.Errorf("%v", e.Data)
	}
}

// At exit, a line each second says what is waited for.
func TestLogs_Exit(t *testing.T) {
	p := reserve(t)
	echo := newEchoOrigin(t)
	t.Parallel()
	p.start(t, processSetup{egress: "tunnel {\nclose_delay 3s\n}\n"})
	tun := p.client(t, "h1").open(t, echo.addr)
	alive(t, tun, "the tunnel")
	p.signal(t, syscall.SIGTERM)
	const waiting = "exiting: waiting for what is under way"
	l := p.awaitLog(t, waiting)
	if l.str("handler") != "clear" || l.num("tunnels") != 1 || l.num("exchanges") != 0 || l.num("tunnels_end_in") <= 0 {
		t.Errorf("%v", l)
	}
	drained(t, tun, "the tunnel")
	p.exit(t)
}
