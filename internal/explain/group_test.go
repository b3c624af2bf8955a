package explain

import (
	"testing"

	"github.com/caddy-egress/egress/internal/health"
)

// The words for a member follow its state.
func TestUpstreamState_Words(t *testing.T) {
	for _, tc := range []struct {
		state State
		want  string
	}{
		{State{Admin: "ready", Active: "up", Circuit: "closed"}, "up"},
		{State{Admin: "ready", Active: "unknown", Circuit: "closed"}, "not checked"},
		{State{Admin: "drain", Active: "down", Circuit: "open"}, "drain (by the operator)"},
		{State{Admin: "ready", Active: "down", Circuit: "open"}, "down (active check)"},
		{State{Admin: "ready", Active: "up", Circuit: "open", AuthFault: true}, "refuses our credentials"},
		{State{Admin: "ready", Active: "up", Circuit: "open", OpenFor: 2.5}, "circuit open (for 2.5s)"},
		{State{Admin: "ready", Active: "up", Circuit: "open"}, "circuit open (a probe is due)"},
		{State{Admin: "ready", Active: "up", Circuit: health.HalfOpen.String()}, "circuit half-open (a probe is under way)"},
		{State{Admin: "ready", Active: "up", Circuit: "closed", Limit: "max_tunnels"}, "up, at its limit (max_tunnels)"},
	} {
		if got := tc.state.words(); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.state, got, tc.want)
		}
	}
}
