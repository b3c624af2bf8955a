package sources

import (
	"net"
	"slices"
	"testing"

	"github.com/caddy-egress/egress/internal/upstream"
)

// Priorities and weights of SRV records are those of members; weights that are larger
// than a member may have keep their proportion, and none is nothing.
func TestFoundRecords(t *testing.T) {
	found := func(hostPort string, priority, weight int) upstream.Found {
		return upstream.Found{HostPort: hostPort, Rank: upstream.Rank{Priority: priority, Weight: weight}}
	}
	for name, tc := range map[string]struct {
		records []*net.SRV
		want    []upstream.Found
	}{
		"as they are": {
			[]*net.SRV{{Target: "a.example.", Port: 1, Priority: 10, Weight: 60}, {Target: "b.example.", Port: 2, Priority: 20}},
			[]upstream.Found{found("a.example:1", 10, 60), found("b.example:2", 20, 1)},
		},
		"large": {
			[]*net.SRV{{Target: "a.example", Port: 1, Weight: 40_000}, {Target: "b.example", Port: 1, Weight: 20_000}, {Target: "c.example", Port: 1, Weight: 1}},
			[]upstream.Found{found("a.example:1", 0, 10_000), found("b.example:1", 0, 5_000), found("c.example:1", 0, 1)},
		},
		"not there": {[]*net.SRV{{Target: "."}}, []upstream.Found{}},
	} {
		if got := foundRecords(tc.records); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}
