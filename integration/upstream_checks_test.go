package integration

import (
	"fmt"
	"net/http"
	neturl "net/url"
	"testing"
	"time"
)

// This file contains active checks of upstreams, over real sockets.

// checkCase is a type of check, with a way to make it fail for one upstream.
type checkCase struct {
	name  string
	tls   bool // the upstreams speak TLS
	words string
	fail  func(u *scriptedUpstream)
	pass  func(u *scriptedUpstream)
}

func checkCases(t *testing.T) []checkCase {
	down, up := (*scriptedUpstream).down, (*scriptedUpstream).up
	normal := func(u *scriptedUpstream) { u.behave(nil) }
	page := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "all is well") })
	secure := newHTTPSOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "all is well") })
	echo := newEchoOrigin(t)
	broken := func(b behaviour) func(u *scriptedUpstream) { return func(u *scriptedUpstream) { u.behave(b) } }
	return []checkCase{
		{"tcp", false, "health_check tcp", down, up},
		{"tls", true, "health_check tls", down, up},
		{"http", false, "health_check http " + page.URL + "/\nhealth_status 200\nhealth_body well", broken(answering(500)), normal},
		{"http, another page", false, "health_check http " + page.URL + "/\nhealth_body well", broken(answering(200)), normal},
		{"http over TLS to the upstream", true, "health_check http " + page.URL + "/", broken(answering(503)), normal},
		{"http to https", false, "health_check http " + secure.URL + "/\nhealth_body well", broken(answering(502)), normal},
		{"connect", false, "health_check connect " + echo.addr, broken(answering(502)), normal},
		{"connect, gone", false, "health_check connect " + echo.addr, down, up},
		{"connect over TLS to the upstream", true, "health_check connect " + echo.addr, broken(closing), normal},
		{"connect to https", false, "health_check connect " + secure.URL, func(u *scriptedUpstream) {
			u.behave(func(_ http.ResponseWriter, r *http.Request) bool { r.Host = echo.addr; return false }) // there is no TLS there
		}, normal},
	}
}

// keepBusy sends requests until the end of the test: a group that nobody uses is
// checked once a minute.
func keepBusy(t *testing.T, p *proxy, url string) {
	t.Helper()
	keepBusyAs(t, p, nil, url)
}

// keepBusyAs is keepBusy as a user; nil for nobody.
func keepBusyAs(t *testing.T, p *proxy, user *neturl.Userinfo, url string) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	rt := &http.Transport{Proxy: http.ProxyURL(&neturl.URL{Scheme: "http", User: user, Host: p.plain})}
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			// How it ends is for the test to find out by itself.
			if resp, err := (&http.Client{Transport: rt, Timeout: time.Second}).Get(url); err == nil {
				resp.Body.Close()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done; rt.CloseIdleConnections() })
}

// Each type of check takes an upstream out that fails it, and brings it back; one log
// line and one event each.
func TestChecks_DownAndUp(t *testing.T) {
	for _, tc := range checkCases(t) {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			make := newScriptedUpstream
			if tc.tls {
				make = newScriptedTLSUpstream
			}
			u, other := make(t, "u"), make(t, "other")
			events := newTransitions(t)
			trust := "tls_trust_pool file " + caFile(t) + "\n"
			group := groupOf("lb_policy round_robin\nslow_start off\ncircuit {\nconsecutive_failures 100000\nmin_success_rate 0%\n}\nhealth_interval 100ms\nhealth_timeout 1s\n"+tc.words+"\n"+tlsIf(tc.tls, trust), u, other)
			p := start(t, mode{access: true}, setup{egress: usual + "transport {\n" + trust + "}\n" + group, global: events.global()})
			origin := okOrigin(t)
			c := p.client(t, "h1")
			keepBusy(t, p, origin.URL)
			if got := servedBy(t, c, origin.URL, 10); got["u"] == 0 {
				t.Errorf("at first served by %v", got)
			}
			tc.fail(u)
			events.await(t, u, "unhealthy")
			if got := servedBy(t, c, origin.URL, 10); got["u"] != 0 {
				t.Errorf("while it is down served by %v", got)
			}
			tc.pass(u)
			events.await(t, u, "unhealthy", "healthy")
			if got := servedBy(t, c, origin.URL, 10); got["u"] == 0 {
				t.Errorf("afterwards served by %v", got)
			}
			events.expect(t, p, map[*scriptedUpstream][]string{u: {"unhealthy", "healthy"}, other: nil})
			lines := p.logs.transitionsOf(u.url())
			if lines[0].str("level") != "warn" || lines[0].str("reason") != "check_failed" || lines[0].str("error") == "" {
				t.Errorf("logged %v", lines[0])
			}
			if lines[1].str("level") != "info" || lines[1].str("reason") != "check_passed" {
				t.Errorf("logged %v", lines[1])
			}
		})
	}
}

func tlsIf(yes bool, words string) string {
	if yes {
		return words
	}
	return ""
}

// The thresholds: it takes so many failures in a row, and so many passes.
func TestChecks_Thresholds(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
	events := newTransitions(t)
	p := start(t, mode{}, setup{
		egress: usual + groupOf("health_check connect "+echo.addr+"\nhealth_interval 100ms\nhealth_fails 4\nhealth_passes 3\n", u, other),
		global: events.global(),
	})
	awaitAsked(t, u, echo.addr)
	keepBusy(t, p, okOrigin(t).URL)

	// Three failures, a pass, and so on: never out.
	n := 0
	enough := make(chan struct{})
	u.behave(only(echo.addr, func(w http.ResponseWriter, r *http.Request) bool {
		if n++; n == 17 {
			close(enough)
		}
		return n%4 != 0 && answering(502)(w, r)
	}))
	await(t, enough, "checks")
	if all, _ := events.so(); len(all) > 0 {
		t.Errorf("with three failures in a row: %v", all)
	}
	failures := 0
	u.behave(only(echo.addr, func(w http.ResponseWriter, r *http.Request) bool { failures++; return answering(502)(w, r) }))
	events.await(t, u, "unhealthy")
	passes := 0
	u.behave(only(echo.addr, func(http.ResponseWriter, *http.Request) bool { passes++; return false }))
	events.await(t, u, "unhealthy", "healthy")
	if passes < 3 || passes > 4 {
		t.Errorf("%d checks passed until it was healthy, want 3", passes)
	}
	u.behave(nil)
	if failures < 3 || failures > 6 { // one of those before may count; one more may be under way
		t.Errorf("%d checks failed until it was unhealthy, want 4", failures)
	}
	events.expect(t, p, map[*scriptedUpstream][]string{u: {"unhealthy", "healthy"}, other: nil})
}

// When all upstreams fail a target at once, it is the target that is down.
func TestChecks_TargetDown(t *testing.T) {
	checkLeaks(t)
	var upstreams []*scriptedUpstream
	for i := range 3 {
		upstreams = append(upstreams, newScriptedUpstream(t, fmt.Sprintf("u%d", i)))
	}
	target := newEchoOrigin(t)
	for _, u := range upstreams {
		u.behave(only(target.addr, answering(502)))
	}
	events := newTransitions(t)
	p := start(t, mode{}, setup{
		egress: usual + groupOf("lb_policy round_robin\nhealth_check connect "+target.addr+"\nhealth_interval 100ms\nhealth_fails 1\n", upstreams...),
		global: events.global(),
	})
	c, origin := p.client(t, "h1"), okOrigin(t)
	keepBusy(t, p, origin.URL)
	for _, u := range upstreams {
		for range 5 {
			awaitAsked(t, u, target.addr)
		}
	}
	got := servedBy(t, c, origin.URL, 9)
	for _, u := range upstreams {
		if got[u.name] == 0 {
			t.Errorf("served by %v, want all", got)
		}
	}
	events.expect(t, p, nil)
}

// An upstream that refuses the credentials of checks is an authentication fault; it
// ends when they are accepted.
func TestChecks_Credentials(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
	u.behave(answering(407, `Proxy-Authenticate: Basic realm="upstream"`))
	events := newTransitions(t)
	p := start(t, mode{}, setup{
		egress: usual + groupOf("lb_policy round_robin\nhealth_check connect "+echo.addr+"\nhealth_interval 100ms\n", u, other),
		global: events.global(),
	})
	c, origin := p.client(t, "h1"), okOrigin(t)
	keepBusy(t, p, origin.URL)
	events.await(t, u, "auth_failed")
	if got := servedBy(t, c, origin.URL, 10); got["u"] != 0 {
		t.Errorf("served by %v", got)
	}
	u.behave(nil)
	events.await(t, u, "auth_failed", "circuit_closed")
	events.expect(t, p, map[*scriptedUpstream][]string{u: {"auth_failed", "circuit_closed"}, other: nil})
}
