package upstream

import (
	"errors"
	"testing"

	"github.com/caddy-egress/egress/internal/failure"
)

// Of the tunnels of one client to one destination, only so many are opened through an
// upstream at a time: a loop that nobody recognises takes no more than that. Others are
// not concerned, and nothing is left when they have ended.
func TestOpenings(t *testing.T) {
	var o openings
	looping, other := Opening{"far.test", 443, "192.0.2.1"}, Opening{"near.test", 443, "192.0.2.1"}
	for range 2 {
		for range maxOpening {
			if err := o.enter(looping); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.enter(looping); !errors.Is(err, failure.Limit) {
			t.Errorf("one more: %v; want a limit", err)
		}
		if err := o.enter(other); err != nil {
			t.Errorf("another destination: %v", err)
		}
		o.leave(other)
		for range maxOpening {
			o.leave(looping)
		}
		if len(o.running) != 0 {
			t.Errorf("%d are left", len(o.running))
		}
	}
}
