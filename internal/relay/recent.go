package relay

import (
	"sync/atomic"
	"time"
)

// RateWindow is the time that Rates is about.
const RateWindow = 10 * time.Second

// recent tells how many bytes a direction has read within the last RateWindow, from how many
// it had read when the present stretch of so long began, and the one before. Only who reads
// from the source writes it, and only when a stretch begins: a direction that reads nothing
// costs nothing, and the others a comparison per read.
type recent struct {
	stretch atomic.Int64 // the number of the present one
	began   atomic.Int64 // bytes when it began
	before  atomic.Int64 // bytes when the one before began
}

// note is called with each read, with the time since the relay began and the bytes that were
// read before it.
func (r *recent) note(now time.Duration, taken int64) {
	stretch := int64(now / RateWindow)
	last := r.stretch.Load()
	if stretch == last {
		return
	}
	if stretch == last+1 {
		r.before.Store(r.began.Load())
	} else {
		r.before.Store(taken)
	}
	r.began.Store(taken)
	r.stretch.Store(stretch)
}

// rate is how many bytes a second came in over the last RateWindow, of which as much of the
// stretch before counts as lies within it: its bytes are taken for evenly spread. It may be
// asked while note writes, and is wrong for that moment then, but never below zero.
func (r *recent) rate(now time.Duration, taken int64) float64 {
	elapsed := now % RateWindow
	var current, last int64
	switch int64(now/RateWindow) - r.stretch.Load() {
	case 0:
		began := r.began.Load()
		current, last = taken-began, began-r.before.Load()
	case 1:
		last = taken - r.began.Load()
	default:
		return 0
	}
	bytes := float64(max(current, 0)) + float64(max(last, 0))*float64(RateWindow-elapsed)/float64(RateWindow)
	return bytes / min(max(now, time.Second), RateWindow).Seconds()
}

// Rates returns how many bytes a second came in from the client and from the origin, over
// the last RateWindow, or since the relay began if that is less;
// zero where it does not run.
func (r *Relay) Rates() (up, down float64) {
	if r.running.Load() == 0 { // set behind start
		return 0, 0
	}
	now := time.Since(r.start)
	return r.up.recent.rate(now, r.up.taken.Load()), r.down.recent.rate(now, r.down.taken.Load())
}
