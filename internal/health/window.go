package health

import (
	"sync/atomic"
	"time"
)

const buckets = 10

// MinWindow is the shortest window in which successes are counted.
const MinWindow = buckets * time.Millisecond

// window counts successes and failures over a sliding time, in buckets. Adding is
// one atomic load and one atomic add, so that successes need no lock; a result
// that races with the turn of a bucket may end up in its neighbour.
type window struct {
	passed, failed [buckets]counter
}

// counter is the number of a bucket (the upper half) and its count (the lower).
type counter struct{ word atomic.Uint64 }

func (c *counter) add(number uint32) {
	old := c.word.Load()
	if uint32(old>>32) == number {
		c.word.Add(1)
		return
	}
	if !c.word.CompareAndSwap(old, uint64(number)<<32|1) {
		c.word.Add(1) // another one has just turned the bucket
	}
}

// count is zero unless the bucket is one of the last ones as of number.
func (c *counter) count(number uint32) int {
	w := c.word.Load()
	if number-uint32(w>>32) >= buckets {
		return 0
	}
	return int(uint32(w))
}

// bucketOf returns the number of the bucket of now in windows of the given length.
// A change of the length makes the old buckets too old or too new: it starts anew.
func bucketOf(now instant, length time.Duration) uint32 {
	return uint32(int64(now) / max(int64(length)/buckets, 1))
}

func (w *window) add(now instant, length time.Duration, success bool) {
	n := bucketOf(now, length)
	if success {
		w.passed[n%buckets].add(n)
	} else {
		w.failed[n%buckets].add(n)
	}
}

// takeBack takes the last n failures out, as far as they are not too long ago.
func (w *window) takeBack(now instant, length time.Duration, n int) {
	newest := bucketOf(now, length)
	for number := newest; n > 0 && newest-number < buckets; number-- {
		c := &w.failed[number%buckets]
		for n > 0 && c.count(newest) > 0 && uint32(c.word.Load()>>32) == number {
			c.word.Add(^uint64(0))
			n--
		}
	}
}

func (w *window) counts(now instant, length time.Duration) (passed, failed int) {
	n := bucketOf(now, length)
	for i := range buckets {
		passed += w.passed[i].count(n)
		failed += w.failed[i].count(n)
	}
	return passed, failed
}

func (w *window) reset() {
	for i := range buckets {
		w.passed[i].word.Store(0)
		w.failed[i].word.Store(0)
	}
}
