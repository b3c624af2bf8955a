package integration

import (
	"fmt"
	"net/http"
	"testing"
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
	origin := newHTTPOrigin(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	counts := servedBy(t, p.client(t, "h1"), origin.URL, 300)
	if counts["light"] < 15 || counts["heavy"] < counts["light"]/2 {
		t.Errorf("served by %v", counts)
	}
}
