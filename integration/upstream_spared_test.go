package integration

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// Where two of three upstreams are dead, one of which the cap keeps in rotation, requests
// go to the third, with every policy, and also where that one is a standby.
func TestUpstream_DeadOneThatTheCapKeeps(t *testing.T) {
	for _, policy := range []string{"p2c_ewma", "least_conn", "random", "random_choose 2", "round_robin", "weighted_round_robin", "first", "client_ip_hash", "destination_hash"} {
		for _, priority := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s, priority %d", policy, priority), func(t *testing.T) {
				checkLeaks(t)
				one, two, well := newScriptedUpstream(t, "one"), newScriptedUpstream(t, "two"), newScriptedUpstream(t, "well")
				p := start(t, mode{}, setup{egress: usual + fmt.Sprintf(`upstreams default {
					upstream %s
					upstream %s
					upstream %s {
						priority %d
					}
					lb_policy %s
					lb_retries off
					circuit {
						open_for 10m
						consecutive_failures 2
					}
				}
				route default
				`, one.url(), two.url(), well.url(), priority, policy)})
				origin := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
				c := p.client(t, "h1")
				one.down()
				two.down()
				failed, row := 0, 0
				for n := 0; row < 60; n++ {
					if c.get(t, origin.URL).StatusCode == http.StatusOK {
						row++
					} else {
						failed, row = failed+1, 0
					}
					if n > 1000 {
						t.Fatal("requests go on failing")
					}
				}
				if failed > 8 {
					t.Errorf("%d requests failed before", failed)
				}
			})
		}
	}
}

// With weights and the default policy, a single client is served by all members, in
// proportion, also where its requests never overlap.
func TestUpstream_WeightsWithOneClient(t *testing.T) {
	checkLeaks(t)
	heavy, light := newScriptedUpstream(t, "heavy"), newScriptedUpstream(t, "light")
	p := start(t, mode{}, setup{egress: usual + "upstreams default {\nupstream " + heavy.url() + " {\nweight 2\n}\nupstream " + light.url() + "\n}\nroute default\n"})
	origin := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * time.Millisecond) // or what the scheduler does to each would count
		fmt.Fprint(w, "ok")
	})
	counts := servedBy(t, p.client(t, "h1"), origin.URL, 300)
	// 6 sigma of 200, and as much again for times that are measured.
	if counts["heavy"] < 140 || counts["light"] < 40 {
		t.Errorf("served by %v, want about 2:1", counts)
	}
}

// With the default policy a member that answers slowly gets less, whether it is asked for
// tunnels or for exchanges.
func TestUpstream_SlowMemberGetsLess(t *testing.T) {
	checkLeaks(t)
	for _, kind := range []string{"exchange", "tunnel"} {
		t.Run(kind, func(t *testing.T) {
			slow, fast := newScriptedUpstream(t, "slow"), newScriptedUpstream(t, "fast")
			slow.behave(func(http.ResponseWriter, *http.Request) bool { time.Sleep(50 * time.Millisecond); return false })
			fast.behave(func(http.ResponseWriter, *http.Request) bool { time.Sleep(5 * time.Millisecond); return false })
			p := start(t, mode{}, setup{egress: usual + groupOf("", slow, fast) + "route default\n"})
			origin := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
			c, echo := p.client(t, "h1"), newEchoOrigin(t)
			for range 200 {
				if kind == "exchange" {
					c.get(t, origin.URL)
					continue
				}
				closeTunnel(t, c.open(t, echo.addr))
			}
			if few, many := len(slow.asked()), len(fast.asked()); few < 1 || few > many/3 {
				t.Errorf("the slow one was asked %d times, the fast one %d times", few, many)
			}
		})
	}
}

// A member that answers at once with errors that blame nobody gets no more for that.
func TestUpstream_FastErrorsAttractNobody(t *testing.T) {
	checkLeaks(t)
	bad, good := newScriptedUpstream(t, "bad"), newScriptedUpstream(t, "good")
	bad.behave(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		fmt.Fprint(w, "error")
		return true
	})
	good.behave(func(http.ResponseWriter, *http.Request) bool { time.Sleep(20 * time.Millisecond); return false })
	p := start(t, mode{}, setup{egress: usual + groupOf("", bad, good) + "route default\n"})
	origin := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	c := p.client(t, "h1")
	const n = 150
	for range n {
		c.get(t, origin.URL)
	}
	// Half of them, and 6 sigma.
	if got := len(bad.asked()); got > n/2+37 {
		t.Errorf("the one that fails was asked %d of %d times", got, n)
	}
}
