package health

import "time"

// instant is a point in time in a form that fits an atomic: nanoseconds since a
// point long ago. Zero is never.
type instant int64

// epoch lies far enough back that every time that matters comes after it. It has
// a monotonic reading, so that steps of the wall clock move nothing.
var epoch = time.Now().Add(-50 * 365 * 24 * time.Hour)

func instantOf(t time.Time) instant { return instant(t.Sub(epoch)) }

// time returns the time of i, or the zero time for never.
func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return epoch.Add(time.Duration(i))
}

func (i instant) add(d time.Duration) instant { return i + instant(d) }

func (i instant) sub(j instant) time.Duration { return time.Duration(i - j) }

// earlier returns the earlier of two instants, of which zero is never.
func earlier(a, b instant) instant {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
