//go:build linux

package main

import (
	"slices"
	"sync/atomic"
	"time"
)

// schedule says when each of a series of requests is due.
type schedule struct {
	start time.Time
	every time.Duration
	next  atomic.Int64
}

func (s *schedule) take() (number int64, due time.Time) {
	number = s.next.Add(1) - 1
	return number, s.start.Add(time.Duration(number) * s.every)
}

// paced sends requests when they are due, not when the one before is answered.
// A request that is late because all workers wait for answers counts from when
// it was due. One whose worker was asleep counts from when that is awake: that
// the generator wakes up late is not the proxy's doing.
func (l *load) paced(w *worker) {
	c := l.client(w)
	defer c.close()
	for range w.n {
		number, due := l.clock.take()
		start := due
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
			start = time.Now()
		}
		err := c.exchange(number)
		w.took = append(w.took, time.Since(start))
		w.done(err)
	}
}

// percentiles returns the median and the 99th percentile, in µs, of what the
// workers' requests have taken.
func percentiles(workers []worker) (p50, p99 float64) {
	var all []time.Duration
	for i := range workers {
		all = append(all, workers[i].took...)
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	at := func(percent int) float64 { return microseconds(all[(len(all)-1)*percent/100]) }
	return at(50), at(99)
}
