package timing

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Of several attempts at a part, the first that went well counts, otherwise the last; what
// nobody wants to know is taken by nobody.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, c := With(context.Background())
		began := time.Now()
		for _, a := range []struct {
			part Part
			ok   bool
			want time.Duration
		}{
			{Connect, false, time.Second}, {Connect, false, 2 * time.Second}, {Connect, true, 3 * time.Second},
			{Connect, true, 3 * time.Second}, {Connect, false, 3 * time.Second}, {TLS, false, 6 * time.Second},
		} {
			time.Sleep(time.Second)
			Of(ctx).Since(a.part, began, a.ok)
			if got := c.Times()[a.part]; got != a.want {
				t.Errorf("%d: %s, want %s", a.part, got, a.want)
			}
		}
		if got := c.Times()[DNS]; got != 0 {
			t.Errorf("DNS took %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		for failed, want := range map[bool]time.Duration{false: 2 * time.Second, true: 0} {
			_, c := With(context.Background())
			began := time.Now()
			time.Sleep(time.Second)
			c.Since(Connect, began, !failed)
			time.Sleep(2 * time.Second)
			c.SinceRest(began, false)
			if got := c.Times()[Answer]; got != want {
				t.Errorf("failed %v: the answer took %s, want %s", failed, got, want)
			}
		}
	})
	Of(context.Background()).SinceRest(time.Now(), true)
	Of(context.Background()).Since(DNS, time.Now(), true)
}
