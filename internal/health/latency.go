package health

import (
	"math"
	"time"
)

// This file contains the latency of an upstream, which policies balance by: the mean
// time to its answers, and a penalty for failures that fades.

const (
	// leastLatency is the least that a sample counts as. Shorter differences are
	// those of the scheduler, not of upstreams.
	leastLatency = time.Millisecond

	// failedLatency is the least that a failure counts as: an upstream that fails at
	// once must not look fast.
	failedLatency = 5 * time.Second

	// latencyTau is how long a sample stays of importance where few come, and the
	// time constant with which penalties fade.
	latencyTau = 10 * time.Second

	// A sample moves the mean by one part in so many: fewer after silence.
	leastSamples, mostSamples = 4, 16
)

// observeLatency records what the end of a request tells about the latency. Of a failure
// that may be the destination's it tells nothing, nor of refused credentials: where they are
// wrong, the upstream is out soon.
func (u *Upstream) observeLatency(now instant, o *Observation) {
	took := time.Duration(0) // unknown
	if !o.Started.IsZero() {
		took = now.sub(instantOf(o.Started))
	}
	switch o.Kind {
	case Success:
		if !o.Reached {
			return
		}
		if took > 0 {
			u.sample(now, took)
		}
		u.easePenalty(now)
	case ConnectFailure, Failure:
		if !o.Relayed {
			u.penalize(now, max(took, failedLatency))
		}
	case ReplyTimeout, Cancelled:
		// It would have taken longer, unless only this destination is slow.
		if took > 0 && instant(u.answered.Load()) < instantOf(o.Started) {
			u.penalize(now, took)
		}
	}
}

// sample adds the time that an answer took to the mean.
func (u *Upstream) sample(now instant, took time.Duration) {
	took = max(took, leastLatency)
	parts := int64(mostSamples)
	if elapsed := now.sub(instant(u.latencyAt.Swap(int64(now)))); elapsed > 0 {
		parts = min(max(int64(latencyTau/elapsed), leastSamples), mostSamples)
	}
	if n := u.samples.Load(); n < mostSamples {
		parts = min(parts, int64(n)+1) // the first ones count alike
		u.samples.Add(1)
	}
	for {
		old := time.Duration(u.latency.Load())
		next := took
		if old > 0 {
			next = toward(old, took, parts)
		}
		if u.latency.CompareAndSwap(int64(old), int64(next)) {
			return
		}
	}
}

// penalize moves the latency half of the way to that of a failure, in proportion.
func (u *Upstream) penalize(now instant, failed time.Duration) {
	from := u.latencyNow(now)
	if u.latency.Load() == 0 {
		from = max(from, failedLatency) // no mean to start from
	}
	if failed >= from {
		u.penalty.Store(int64(toward(from, failed, 2)))
		u.penaltyAt.Store(int64(now))
	}
}

// easePenalty takes half of the penalty back, in proportion.
func (u *Upstream) easePenalty(now instant) {
	penalty := u.penalty.Load()
	if penalty == 0 {
		return
	}
	next := time.Duration(0)
	if mean := time.Duration(u.latency.Load()); mean > 0 && u.latencyNow(now) > mean {
		next = toward(time.Duration(penalty), mean, 2)
	}
	u.penalty.CompareAndSwap(penalty, int64(next)) // else it has failed again
}

// toward moves one part in so many of the way from a to b, in proportion: half of the
// way is their geometric mean, within 6%. The bits of a positive number in floating
// point grow about as its logarithm, and cost nothing.
func toward(a, b time.Duration, parts int64) time.Duration {
	from, to := int64(math.Float64bits(float64(a))), int64(math.Float64bits(float64(b)))
	return time.Duration(math.Float64frombits(uint64(from + (to-from)/parts)))
}

// latencyNow is the mean, or the penalty if more is left of that.
func (u *Upstream) latencyNow(now instant) time.Duration {
	mean, penalty := time.Duration(u.latency.Load()), time.Duration(u.penalty.Load())
	if penalty <= mean {
		return mean
	}
	elapsed := max(now.sub(instant(u.penaltyAt.Load())), 0)
	if mean == 0 {
		// Where nothing was ever answered, what has faded for long looks fast.
		if elapsed >= latencyTau {
			return 0
		}
		return penalty
	}
	return max(mean, time.Duration(float64(penalty)*math.Exp(-float64(elapsed)/float64(latencyTau))))
}

// Latency is the geometric mean of the times to the last answers (to CONNECT, or the
// first byte of a response), at least 1 ms each. A failure of its own moves it half of
// the way to 5 s or more, in proportion; that fades with a time constant of 10 s, and
// each answer takes half of it back. 0: nothing is known.
func (u *Upstream) Latency(now time.Time) time.Duration { return u.latencyNow(instantOf(now)) }
