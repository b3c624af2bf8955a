package health

import "time"

// This file contains the latency of an upstream, by which policies balance.

// failedLatency is the least that a failure counts as: an upstream that fails at once
// must not look fast.
const failedLatency = 5 * time.Second

// ObserveConnect records how long it took to connect to the upstream.
func (u *Upstream) ObserveConnect(now time.Time, took time.Duration) {
	u.sample(instantOf(now), took)
}

// sample records how long the upstream took to do something.
func (u *Upstream) sample(t instant, took time.Duration) {
	elapsed := t.sub(instant(u.latencyAt.Swap(int64(t))))
	for {
		old := u.latency.Load()
		next := int64(peak(float64(old), elapsed, float64(max(took, 1))))
		if u.latency.CompareAndSwap(old, next) {
			return
		}
	}
}

// sampleEnd records what the end of a request tells of the latency.
func (u *Upstream) sampleEnd(t instant, o *Observation) {
	took := time.Duration(0) // unknown
	if !o.Started.IsZero() {
		took = t.sub(instantOf(o.Started))
	}
	switch o.Kind {
	case Success:
		if o.Reached && took > 0 {
			u.sample(t, took)
		}
	case ConnectFailure, Failure, AuthFault:
		if o.Relayed {
			u.latencyAt.Store(int64(t)) // as below
			return
		}
		u.sample(t, max(took, failedLatency))
	case SoftFail:
		// It may have been quick because it does not work, or the destination does
		// not: it must not gain by that.
		u.latencyAt.Store(int64(t))
	case ReplyTimeout, Cancelled:
		// It would have taken longer.
		if took > u.latencyNow(t) {
			u.sample(t, took)
		}
	}
}

// latencyNow is the latency without its lower bound.
func (u *Upstream) latencyNow(t instant) time.Duration {
	return time.Duration(decayed(float64(u.latency.Load()), t.sub(instant(u.latencyAt.Load()))))
}

// Latency is the peak EWMA of the time to connect and of the time to the answer to
// CONNECT or the first byte of a response: up at once, down with a time constant of
// 10 s, also without samples, so that one slow answer does not keep an upstream out of
// use for ever. 0 if none was measured, else at least 1 ms.
func (u *Upstream) Latency(now time.Time) time.Duration {
	if u.latency.Load() == 0 {
		return 0
	}
	return max(u.latencyNow(instantOf(now)), leastLatency)
}
