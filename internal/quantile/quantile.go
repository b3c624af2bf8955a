package quantile

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	perOctave = 8              // buckets between a duration and its double
	buckets   = 48 * perOctave // up to 2^48 ns, three days
	forget    = 1 << 10        // samples after which all counts are halved
	least     = 20             // samples below which nothing is said
)

// Estimator counts durations in buckets that grow by an eighth of an octave, so an
// estimate is at most 9% too high. Older samples weigh less: all counts are halved
// after each 1,024. The zero value is empty and ready. It is safe for concurrent
// use; two samples at once that both halve do no harm.
type Estimator struct {
	counts [buckets]atomic.Uint32
	total  atomic.Uint32
}

// Add takes a sample.
func (e *Estimator) Add(d time.Duration) {
	e.counts[bucket(d)].Add(1)
	if e.total.Add(1) >= forget {
		e.halve()
	}
}

func (e *Estimator) halve() {
	sum := uint32(0)
	for i := range e.counts {
		n := e.counts[i].Load() / 2
		e.counts[i].Store(n)
		sum += n
	}
	e.total.Store(sum)
}

// At returns the duration below which the share q of the samples is, 0 where there
// are fewer than 20 of them.
func (e *Estimator) At(q float64) time.Duration {
	total := e.total.Load()
	if total < least {
		return 0
	}
	rank := uint32(math.Ceil(q * float64(total)))
	seen := uint32(0)
	for i := range e.counts {
		if seen += e.counts[i].Load(); seen >= rank {
			return upper(i)
		}
	}
	return upper(buckets - 1)
}

// bucket is the number of the bucket that holds d.
func bucket(d time.Duration) int {
	n := uint64(max(d, 1))
	octave := bits.Len64(n) - 1
	// The three bits below the highest one are the place within the octave.
	part := n << (63 - octave) << 1 >> (64 - 3)
	return min(octave*perOctave+int(part), buckets-1)
}

// upper is the first duration above the bucket.
func upper(i int) time.Duration {
	octave, part := i/perOctave, i%perOctave
	return time.Duration(float64(uint64(1)<<octave) * (1 + float64(part+1)/perOctave))
}
