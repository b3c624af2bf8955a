package tunnels

import (
	"errors"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/failure"
)

// A tunnel over a limit is refused, for the reason that was told to those who only asked,
// and holds nothing; one that ends makes room for another.
func TestTake(t *testing.T) {
	for _, tc := range []struct {
		limits       Limits
		client, user string
		want         error
	}{
		{Limits{}, "192.0.2.1", "ann", nil},
		{Limits{Tunnels: -1, PerClient: -1, PerUser: -1, RatePerUser: -1}, "192.0.2.1", "ann", nil},
		{Limits{Tunnels: 2}, "", "", ErrMax},
		{Limits{PerClient: 2}, "192.0.2.1", "ann", ErrMaxPerClient},
		{Limits{PerClient: 2}, "", "ann", nil},
		{Limits{PerUser: 2, RatePerUser: 1 << 20}, "192.0.2.1", "ann", ErrMaxPerUser},
		{Limits{PerUser: 2}, "192.0.2.1", "", nil},
		{Limits{Tunnels: 2, PerClient: 2, PerUser: 2}, "192.0.2.1", "ann", ErrMaxPerClient},
	} {
		use, err := Acquire("edge", zap.NewNop)
		if err != nil {
			t.Fatal(err)
		}
		take := func() (Slot, error) {
			told := use.Value.Refuses(tc.client, tc.user, tc.limits)
			slot, err := use.Take(tc.client, tc.user, tc.limits)
			if (told == nil) != (err == nil) || err != nil && told.Error() != err.Error() {
				t.Errorf("%+v: told %v, and then %v", tc.limits, told, err)
			}
			return slot, err
		}
		var slots [2]Slot
		for i := range slots {
			if slots[i], err = take(); err != nil {
				t.Fatalf("%+v: tunnel %d: %v", tc.limits, i+1, err)
			}
		}
		slot, err := take()
		if !errors.Is(err, tc.want) || err != nil && failure.Of(err) != failure.Limit {
			t.Errorf("%+v: a third tunnel: %v; want %v", tc.limits, err, tc.want)
		}
		if err != nil && (slot.book != nil || slot.giveBack != nil) {
			t.Errorf("%+v: a tunnel that was refused holds %+v", tc.limits, slot)
		}
		slot.Release()
		slots[0].Release()
		slots[0].Release() // does nothing
		if slots[0], err = take(); err != nil {
			t.Errorf("%+v: one has ended, and there is no room: %v", tc.limits, err)
		}
		for i := range slots {
			slots[i].Release()
		}
		if n := use.Value.Report().Tunnels + use.Value.OfClient(tc.client) + use.Value.OfUser(tc.user); n != 0 {
			t.Errorf("%+v: %d are counted, and there is no tunnel", tc.limits, n)
		}
		use.Release()
		if held("edge") != 0 {
			t.Errorf("%+v: held by %d at the end", tc.limits, held("edge"))
		}
	}
}
