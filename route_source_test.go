package egress

import (
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
)

// What cannot be reached from the addresses of one route may be well from those of
// another: their circuits are apart, and those of the same addresses the same, also
// over a reload.
func TestRouteSource_Circuits(t *testing.T) {
	const config = `{"name": "circuits-of-routes", "routes": [
		{"match": [{"header": {"X-Route": ["one"]}}], "to": "direct", "local_addresses": ["127.0.0.4"]},
		{"match": [{"header": {"X-Route": ["same"]}}], "to": "direct", "local_addresses": ["127.0.0.4"]},
		{"match": [{"header": {"X-Route": ["two"]}}], "to": "direct", "local_addresses": ["127.0.0.5"]},
		{"match": [{"header": {"X-Route": ["four"]}}], "to": "direct", "prefer_ip": "4"},
		{"to": "direct"}]}`
	dest := target.Target{Host: "origin.test", Port: 80}
	expect := func(h *Handler, when string, states ...string) {
		t.Helper()
		for i, want := range states {
			if got, _ := h.Routes[i].way.Direct.Circuits.Look(dest, false); got != want {
				t.Errorf("%s: circuit of route %d is %s, want %s", when, i, got, want)
			}
		}
	}
	before := poolCount()
	old, endOld := mustLoadModule(t, config)
	for range 5 {
		r, err := old.Routes[0].way.Direct.Circuits.Allow(dest, false, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		r.Tell(failure.Refused)
	}
	expect(old, "after failures of the first", "open", "open", "closed", "closed", "closed")
	renewed, end := mustLoadModule(t, config)
	endOld()
	expect(renewed, "after a reload", "open", "open", "closed", "closed", "closed")
	end()
	if n := poolCount(); n != before {
		t.Errorf("%d paths are left", n-before)
	}
}
