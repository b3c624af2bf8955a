package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// This file contains who is in rotation, as requests see it: circuits and their
// probes, slow start, the cap of ejection, panic, and nobody at all.

// okOrigin answers everything with ok.
func okOrigin(t *testing.T) *httptest.Server {
	return newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
}

// eject sends requests until the upstreams that fail are out, and no more: on a slow
// machine one of them would be a probe.
func eject(t *testing.T, c *client, url string, events *transitions, upstreams ...*scriptedUpstream) {
	t.Helper()
	eventually(t, "the upstreams that fail to be out", func() bool {
		c.get(t, url)
		told, _ := events.so()
		return len(told) >= len(upstreams)
	})
	for _, u := range upstreams {
		events.await(t, u, "circuit_open")
	}
}

// A request that would be lost if it failed is a probe only where no other has come for
// as long again.
func TestRotation_ProbesAreRepeatable(t *testing.T) {
	checkLeaks(t)
	u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
	events := newTransitions(t)
	p := start(t, mode{}, setup{egress: usual + groupOf("lb_policy round_robin\ncircuit {\nopen_for 1s\n}\n", u, other), global: events.global()})
	origin := okOrigin(t)
	c := p.client(t, "h1")
	u.behave(closing)
	eject(t, c, origin.URL, events, u)
	out := time.UnixMicro(int64(p.logs.transitionsOf(u.url())[0].num("ts") * 1e6))
	u.asked()
	for i, asked := 0, false; !asked; i++ {
		if time.Since(out) > patience {
			t.Fatal("where there are only uploads, none is the probe ever")
		}
		r := c.newRequest(t, "POST", origin.URL, strings.NewReader("x"))
		if i%2 == 1 { // idempotent, but with a body
			r = c.newRequest(t, "PUT", origin.URL, io.MultiReader(strings.NewReader("x")))
		}
		c.do(t, r)
		asked = len(u.asked()) > 0
		// The pause may be a tenth shorter.
		if late := time.Since(out); asked && late < 1800*time.Millisecond {
			t.Errorf("after %v a %s was the probe", late, r.Method)
		}
		time.Sleep(10 * time.Millisecond) // no event tells that a probe is due
	}
	eventually(t, "a GET as the probe", func() bool {
		c.get(t, origin.URL).expect(t, 200, "ok")
		return len(u.asked()) > 0
	})
}

// After the pause of an upstream exactly one of many requests is its probe. Where its
// client leaves, there is another one when as much time has passed as it has waited.
func TestRotation_OneProbe(t *testing.T) {
	checkLeaks(t)
	const openFor = 500 * time.Millisecond
	u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
	events := newTransitions(t)
	p := start(t, mode{}, setup{egress: usual + groupOf("lb_policy round_robin\nslow_start off\ncircuit {\nopen_for 500ms\n}\n", u, other), global: events.global()})
	origin := okOrigin(t)
	c := p.client(t, "h1")
	u.behave(closing)
	eject(t, c, origin.URL, events, u)
	gate := newGate()
	t.Cleanup(gate.open)
	u.behave(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-gate.c:
			return false
		case <-r.Context().Done():
			return true
		}
	})
	time.Sleep(openFor + 100*time.Millisecond) // no event tells that a probe is due
	u.asked()

	// A probe whose client leaves.
	r, cancel := withCancel(c.newRequest(t, "GET", origin.URL, nil))
	gone := p.client(t, "h1").goTry(r)
	await(t, u.seen, "the probe")
	cancel()
	if a := await(t, gone, "the end of the request"); a.err == nil {
		t.Error("a request that was cancelled had an answer")
	}

	// The next one, of many.
	eventually(t, "another probe", func() bool {
		a := p.client(t, "h1").goTry(c.newRequest(t, "GET", origin.URL, nil))
		select {
		case r := <-u.seen:
			u.seen <- r
			return true
		case got := <-a: // the pause is not over yet
			got.must(t).expect(t, 200, "ok")
			return false
		}
	})
	var answers []<-chan answer
	for range 50 {
		answers = append(answers, p.client(t, "h1").goTry(c.newRequest(t, "GET", origin.URL, nil)))
	}
	for _, a := range answers {
		got := await(t, a, "an answer").must(t)
		if got.expect(t, 200, "ok"); got.Header.Get("Served-By") != "other" {
			t.Error("served by " + got.Header.Get("Served-By"))
		}
	}
	if n := len(u.asked()); n != 1 {
		t.Errorf("%d requests reached an upstream that was half-open, want one", n)
	}
	gate.open()
	events.await(t, u, "circuit_open", "circuit_closed")
	if got := servedBy(t, c, origin.URL, 20); got["u"] != 10 {
		t.Errorf("afterwards served by %v", got)
	}
	events.expect(t, p, map[*scriptedUpstream][]string{u: {"circuit_open", "circuit_closed"}, other: nil})
}

// Fifty requests that arrive at once when the pause is over: one is the probe.
func TestRotation_OneProbeOfMany(t *testing.T) {
	checkLeaks(t)
	u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
	events := newTransitions(t)
	p := start(t, mode{}, setup{egress: usual + groupOf("lb_policy round_robin\ncircuit {\nopen_for 500ms\n}\n", u, other), global: events.global()})
	origin := okOrigin(t)
	c := p.client(t, "h1")
	u.behave(closing)
	eject(t, c, origin.URL, events, u)
	gate := newGate()
	t.Cleanup(gate.open)
	u.behave(func(http.ResponseWriter, *http.Request) bool { <-gate.c; return false })
	time.Sleep(600 * time.Millisecond)
	u.asked()
	answers := make(chan answer, 50)
	for range 50 {
		client := p.client(t, "h1")
		go func() {
			resp, err := client.try(client.newRequest(t, "GET", origin.URL, nil))
			answers <- answer{resp, err}
		}()
	}
	for range 49 {
		await(t, answers, "an answer").must(t).expect(t, 200, "ok")
	}
	if n := len(u.asked()); n != 1 {
		t.Errorf("%d probes, want one", n)
	}
	gate.open()
	await(t, answers, "the probe").must(t).expect(t, 200, "ok")
	events.expect(t, p, map[*scriptedUpstream][]string{u: {"circuit_open", "circuit_closed"}, other: nil})
}

// An upstream that comes back begins with a tenth of its share, unless slow start is
// off.
func TestRotation_SlowStart(t *testing.T) {
	for _, tc := range []struct {
		slowStart   string
		requests    int
		least, most int // of them
	}{
		{"1h", 400, 10, 75}, // 36 are expected, by chance
		{"off", 66, 28, 38},
	} {
		t.Run(tc.slowStart, func(t *testing.T) {
			checkLeaks(t)
			u, other := newScriptedUpstream(t, "u"), newScriptedUpstream(t, "other")
			events := newTransitions(t)
			p := start(t, mode{}, setup{
				egress: usual + groupOf("lb_policy weighted_round_robin\ncircuit {\nopen_for 100ms\n}\nslow_start "+tc.slowStart+"\n", u, other),
				global: events.global(),
			})
			origin := okOrigin(t)
			c := p.client(t, "h1")
			if got := servedBy(t, c, origin.URL, 20); got["u"] != 10 {
				t.Errorf("at first %v: slow start is for those that have failed", got)
			}
			u.behave(closing)
			eject(t, c, origin.URL, events, u)
			u.behave(nil)
			eventually(t, "a probe that passes", func() bool {
				c.get(t, origin.URL)
				all, _ := events.so()
				return len(all) == 2
			})
			if got := servedBy(t, c, origin.URL, tc.requests); got["u"] < tc.least || got["u"] > tc.most {
				t.Errorf("of %d requests %v, want %d to %d of u", tc.requests, got, tc.least, tc.most)
			}
		})
	}
}

// max_ejected is the most that may be out, and the last one is never out. What may not be
// ejected though it fails is not asked while others work. Where none does, all are asked.
func TestRotation_MaxEjected(t *testing.T) {
	for _, tc := range []struct {
		name          string
		members, fail int
		words         string
		ejected       int
	}{
		{"half of four", 4, 3, "max_ejected 50%\npanic_below 0%\n", 2},
		{"none", 2, 1, "max_ejected 0%\n", 0},
		{"the last one", 2, 2, "max_ejected 100%\npanic_below 0%\n", 1},
		{"the only one", 1, 1, "max_ejected 100%\n", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkLeaks(t)
			var upstreams []*scriptedUpstream
			for i := range tc.members {
				u := newScriptedUpstream(t, fmt.Sprintf("u%d", i))
				if i < tc.fail {
					u.behave(closing)
				}
				upstreams = append(upstreams, u)
			}
			events := newTransitions(t)
			p := start(t, mode{}, setup{
				egress: usual + "destination_circuit off\n" + groupOf("lb_policy round_robin\ncircuit {\nopen_for 1m\n"+tc.words+"}\n", upstreams...),
				global: events.global(),
			})
			origin := okOrigin(t)
			c := p.client(t, "h1")
			for i := range 60 {
				url := origin.URL
				if tc.fail == tc.members { // one host alone would be to blame itself
					url = fmt.Sprintf("http://127.0.0.%d/", 1+i%8)
				}
				resp := c.get(t, url)
				if tc.fail == 1 && tc.members == 2 && resp.StatusCode != 200 {
					t.Errorf("status %d, though the other one works", resp.StatusCode)
				}
			}
			for _, u := range upstreams {
				u.asked()
			}
			for range 20 {
				c.get(t, origin.URL)
			}
			used := 0
			for _, u := range upstreams {
				if len(u.asked()) > 0 {
					used++
				}
			}
			want := tc.members - tc.fail
			if want == 0 {
				want = tc.members // nobody is better
			}
			if used != want {
				t.Errorf("%d upstreams are in use, want %d", used, want)
			}
			if all, _ := events.so(); len(all) != tc.ejected {
				t.Errorf("events %v, want %d", all, tc.ejected)
			}
		})
	}
}

// Below panic_below circuits are ignored, but not checks that failed.
func TestRotation_Panic(t *testing.T) {
	for _, tc := range []struct {
		below string
		panic bool
	}{{"50%", true}, {"0%", false}} {
		t.Run(tc.below, func(t *testing.T) {
			checkLeaks(t)
			var upstreams []*scriptedUpstream
			for i := range 4 {
				upstreams = append(upstreams, newScriptedUpstream(t, fmt.Sprintf("u%d", i)))
			}
			events := newTransitions(t)
			p := start(t, mode{}, setup{
				egress: usual + groupOf("lb_policy round_robin\nlb_retries 3\ncircuit {\nopen_for 1m\nmax_ejected 100%\npanic_below "+tc.below+"\n}\n", upstreams...),
				global: events.global(),
			})
			origin := okOrigin(t)
			c := p.client(t, "h1")
			for _, u := range upstreams[:3] {
				u.behave(closing)
			}
			eject(t, c, origin.URL, events, upstreams[:3]...)
			upstreams[0].behave(nil)
			upstreams[1].behave(nil)
			upstreams[2].behave(nil)
			upstreams[2].down() // nobody there at all
			served := servedBy(t, c, origin.URL, 40)
			t.Log(served)
			if panics := served["u0"] > 0 && served["u1"] > 0; panics != tc.panic {
				t.Errorf("served by %v", served)
			}
			if served["u2"] > 0 || served["u3"] == 0 {
				t.Errorf("served by %v", served)
			}
			if all, _ := events.so(); len(all) != 3 {
				t.Errorf("panic is no transition: %v", all)
			}
		})
	}
}

// With no upstream left a request fails with an answer of ours, and goes elsewhere
// only where the route says so.
func TestRotation_Nobody(t *testing.T) {
	for _, tc := range []struct {
		route  string
		status int
		kind   string
		by     string
	}{
		{"route default", 503, "destination_unavailable", ""},
		{"route default fallback direct", 200, "", ""},
		{"route default fallback deny", 403, "http_request_denied", ""},
		{"route default fallback spare", 200, "", "spare"},
	} {
		t.Run(tc.route, func(t *testing.T) {
			checkLeaks(t)
			dead, spare := newScriptedUpstream(t, "dead"), newScriptedUpstream(t, "spare")
			dead.down()
			config := usual + tc.route + "\n" + groupOf("health_check tcp\nhealth_interval 100ms\n", dead)
			if strings.HasSuffix(tc.route, "spare") {
				config += strings.Replace(groupOf("", spare), "default", "spare", 1)
			}
			events := newTransitions(t)
			p := start(t, mode{access: true}, setup{egress: config, global: events.global()})
			events.await(t, dead, "unhealthy")
			origin, echo := okOrigin(t), newEchoOrigin(t)
			c := p.client(t, "h1")
			resp := c.get(t, origin.URL)
			tresp, tun := c.connect(t, echo.addr, "", nil)
			tun.Close()
			if tc.status == 200 {
				resp.expect(t, 200, "ok")
				if resp.Header.Get("Served-By") != tc.by || tresp.StatusCode != 200 {
					t.Errorf("served by %q; tunnel %d", resp.Header.Get("Served-By"), tresp.StatusCode)
				}
				if n := len(spare.asked()); (n == 2) != (tc.by == "spare") {
					t.Errorf("spare was asked %d times", n)
				}
				return
			}
			expectError(t, resp.Response, tc.status, tc.kind)
			expectError(t, tresp, tc.status, tc.kind)
			if tc.status != 503 {
				return
			}
			line := p.logs.access(t, "CONNECT", echo.addr)
			const want = "no upstream of group 'default' is available: 1 down by active check"
			if got := line.str("egress.error"); got != want {
				t.Errorf("logged %q, want %q", got, want)
			}
			if got := line.str("egress.blame"); got != "upstream" {
				t.Errorf("blame %q", got)
			}
			warned := p.logs.wait(t, "a warning", func(l logLine) bool {
				return l.str("msg") == "request failed" && l.str("level") == "warn"
			})
			if got := warned.str("error"); got != want {
				t.Errorf("warned of %q, want %q", got, want)
			}
		})
	}
}
