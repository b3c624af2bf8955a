package egress

import (
	"testing"

	"github.com/caddy-egress/egress/internal/dial"
)

// The state of names lives over a reload that leaves its settings as they are.
func TestNamesOverReload(t *testing.T) {
	for _, tc := range []struct {
		name          string
		before, after string
		same          bool
	}{
		{"unchanged", `{}`, `{}`, true},
		{"other subjects", `{}`, `{"transport": {"dial_timeout": "1s", "prefer_ip": "4", "local_addresses": ["127.0.0.1"]}}`, true},
		{"same resolver", `{"transport": {"resolver": {"addresses": ["192.0.2.1"]}}}`, `{"transport": {"resolver": {"addresses": ["192.0.2.1"]}}}`, true},
		{"another resolver", `{}`, `{"transport": {"resolver": {"addresses": ["192.0.2.1"]}}}`, false},
		{"hosts", `{}`, `{"transport": {"hosts_override": {"a.test": ["192.0.2.1"]}}}`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old, endOld := mustLoadModule(t, tc.before)
			next, endNext := mustLoadModule(t, tc.after)
			if same := old.names == next.names; same != tc.same {
				t.Errorf("same state: %t", same)
			}
			id := old.namesUse.Key
			endOld()
			if n := dial.SharedNames.Holders()[id]; (n == 1) != tc.same {
				t.Errorf("%d references after the old configuration has ended", n)
			}
			if next.proxy.Direct.Names != next.names {
				t.Error("the dialer has another state")
			}
			endNext()
		})
	}
}
