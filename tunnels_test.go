package egress

import (
	"net/netip"
	"testing"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// What a policy forbids: by name, by port, by the address it is connected to; an
// upstream's address is not that of the destination.
func TestTunnelPolicy_Forbids(t *testing.T) {
	by := func(rules ...string) *dial.Dialer {
		return &dial.Dialer{Access: fixture.FixedRules(fixture.AccessList(t, rules...)), Self: fixture.Self(nil, nil), Names: dial.NewNames(dnscache.New(dnscache.Config{}))}
	}
	for _, tc := range []struct {
		rules    []string
		dest, ip string
		want     bool
	}{
		{[]string{"deny *.bad.example"}, "x.bad.example:443", "8.8.8.8", true},
		{[]string{"deny *.bad.example"}, "good.example:443", "8.8.8.8", false},
		{[]string{"deny *.bad.example"}, "x.bad.example:443", "", true},
		{[]string{"deny 8.8.8.0/24"}, "good.example:443", "8.8.8.8", true},
		{[]string{"deny 8.8.8.0/24"}, "good.example:443", "8.8.4.4", false},
		{[]string{"deny 8.8.8.0/24"}, "8.8.8.8:443", "", true},
		{[]string{"deny 8.8.8.8:443"}, "good.example:443", "8.8.8.8", true},
		{[]string{"deny 8.8.8.8:443"}, "good.example:80", "8.8.8.8", false},
		{[]string{"deny 10.0.0.0/8"}, "good.example:443", "", false}, // where the upstream is
		{nil, "good.example:443", "", false},
		{nil, "good.example:443", "10.0.0.1", true}, // by default
		{[]string{"allow private"}, "good.example:443", "10.0.0.1", false},
		{nil, "good.example:25", "8.8.8.8", true},
	} {
		dest, addr := fixture.Target(t, tc.dest), netip.Addr{}
		if tc.ip != "" {
			addr = netip.MustParseAddr(tc.ip)
		}
		if got := forbiddenTunnels(by(tc.rules...), policyClose)(dest, addr); got != tc.want {
			t.Errorf("%v, %s at %q: %t", tc.rules, tc.dest, tc.ip, got)
		}
		if forbids := forbiddenTunnels(by(tc.rules...), policyKeep); forbids != nil && forbids(dest, addr) {
			t.Errorf("%v, %s at %q: forbidden though it is to be kept", tc.rules, tc.dest, tc.ip)
		}
	}
	// A listener of ours is forbidden, unless a rule opens it by address and port.
	dest, addr := target.Target{Host: "x.example", Port: 8080}, netip.MustParseAddr("127.0.0.1")
	for rule, want := range map[string]bool{"allow 127.0.0.0/8": true, "allow 127.0.0.1:8080": false} {
		d := by(rule)
		d.Self = fixture.Self([]string{"tcp/127.0.0.1:8080"}, nil)
		if got := forbiddenTunnels(d, policyClose)(dest, addr); got != want {
			t.Errorf("%s, our own listener: %t", rule, got)
		}
	}
}
