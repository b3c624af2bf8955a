package destination

import (
	"testing"
	"testing/synctest"
	"time"
)

// Open counts destinations from when a circuit of theirs opens until it closes, also while a
// probe is under way; those that have failed less often are not among them.
func TestOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuitTest(t)
		want := func(tracked, open int) {
			t.Helper()
			if c.Tracked() != tracked || c.Open() != open {
				t.Errorf("%d tracked, %d open, want %d and %d", c.Tracked(), c.Open(), tracked, open)
			}
		}
		want(0, 0)
		c.end(origin(1), errRefused)
		want(1, 0)
		for range testConfig.Failures {
			c.end(origin(2), errRefused)
		}
		want(2, 1)
		time.Sleep(testConfig.OpenFor * 2)
		probe := c.ask(origin(2))
		want(2, 1)
		probe.Tell(nil)
		want(1, 0)
	})
}
