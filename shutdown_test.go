package egress

import (
	"testing"
	"time"
)

func TestExitDelay(t *testing.T) {
	for _, tc := range []struct{ delay, grace, want time.Duration }{
		{30 * time.Second, 0, 30 * time.Second},
		{30 * time.Second, time.Minute, 30 * time.Second},
		{30 * time.Second, 10 * time.Second, 8900 * time.Millisecond},
		{30 * time.Second, time.Second, 0},
		{0, 0, 0},
	} {
		if got := exitDelay(tc.delay, tc.grace); got != tc.want {
			t.Errorf("close_delay %s, grace period %s: %s, want %s", tc.delay, tc.grace, got, tc.want)
		}
	}
}
