package health

import "time"

// leastWeight is the share of its weight that an upstream keeps while it is
// overloaded or starts slowly.
const leastWeight = 0.1

// ramp is the share of the weight at now of what began to rise at since.
func ramp(now, since instant, length time.Duration) float64 {
	d := now.sub(since)
	switch {
	case since == 0:
		return 1
	case d < 0:
		return leastWeight
	case d >= length:
		return 1
	}
	return leastWeight + (1-leastWeight)*float64(d)/float64(length)
}
