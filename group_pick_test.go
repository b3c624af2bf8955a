package egress

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// Choosing a member and telling how it went allocates nothing, whatever the policy and
// however large the group.
func TestPick_AllocatesNothing(t *testing.T) {
	for _, policy := range []string{"p2c_ewma", "random", "round_robin", "weighted_round_robin", "least_conn", "first", "client_ip_hash"} {
		for _, n := range []int{1, 3, 1000} {
			urls := make([]string, n)
			for i := range urls {
				urls[i] = fmt.Sprintf(`{"url":"http://10.0.%d.%d:3128"}`, i/250, i%250+1)
			}
			h, end := mustLoadWithApps(t, fmt.Sprintf(
				`{"groups":{"default":{"load_balancing":{"selection_policy":{"policy":%q}},"upstreams":[%s]}}}`, policy, strings.Join(urls, ",")))
			g := h.groups["default"]
			s := new(selection.Choice)
			r := &http.Request{}
			pick := func() {
				*s = selection.Choice{Request: r, ClientIP: "192.0.2.1", Destination: "origin.test:443"}
				p, err := g.Pick(s, upstream.Tunnel)
				if err != nil {
					t.Fatal(err)
				}
				g.Observe(p, upstream.Stands, 7)
			}
			pick() // makes the view of the members
			if allocs := testing.AllocsPerRun(100, pick); allocs > 0 {
				t.Errorf("%s of %d: %v allocations", policy, n, allocs)
			}
			end()
		}
	}
}
