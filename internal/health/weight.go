package health

import (
	"math"
	"time"
)

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

const (
	// latencyTau is the time constant with which the connect time is forgotten.
	latencyTau = 10 * time.Second

	// leastLatency is what a measured connect time does not decay below, so that
	// an upstream that has been idle is not taken for infinitely fast.
	leastLatency = time.Millisecond
)

// decayed is what is left of an EWMA's value after some time without samples.
func decayed(value float64, elapsed time.Duration) float64 {
	if elapsed <= 0 {
		return value
	}
	return value * math.Exp(-float64(elapsed)/float64(latencyTau))
}

// peak returns the next value of a peak EWMA: up at once, down slowly.
func peak(value float64, elapsed time.Duration, sample float64) float64 {
	if sample >= value {
		return sample
	}
	w := decayed(1, elapsed)
	return value*w + sample*(1-w)
}
