package holdings

import (
	"hash/maphash"
	"sync"
)

// shardCount spreads the holders so that two seldom meet at one lock. A power
// of two.
const shardCount = 32

// roomy is the size from which on the map of a shard is thrown away once it is
// empty: a map does not shrink, and a crowd of holders that has left would keep
// its memory.
const roomy = 64

// Counter counts what each holder holds, up to a limit. Only those who hold
// something take memory. Its methods may be called at any time from any
// goroutine, there is no lock over all holders, and once the maps have grown to
// the usual number of holders nothing allocates.
type Counter[K comparable] struct {
	max    int
	seed   maphash.Seed
	shards [shardCount]shard[K]
}

// shard is one part of the map from holder to number.
type shard[K comparable] struct {
	mu   sync.Mutex
	held map[K]int // guarded by mu; nobody has 0
	peak int       // guarded by mu; most holders since held was made

	_ [64 - 24]byte // to a cache line of its own
}

// New returns a counter that lets each holder have max at once. 0 and less is
// no limit: it counts all the same.
func New[K comparable](max int) *Counter[K] {
	return &Counter[K]{max: max, seed: maphash.MakeSeed()}
}

func (c *Counter[K]) shardOf(k K) *shard[K] {
	return &c.shards[maphash.Comparable(c.seed, k)%shardCount]
}

// Acquire gives k one more, unless it has as many as it may: then it changes
// nothing and returns false. Each true wants one Release.
func (c *Counter[K]) Acquire(k K) bool { return c.AcquireUpTo(k, c.max) }

// AcquireUpTo is Acquire with another limit than the counter's, for one that
// changes while things are held.
func (c *Counter[K]) AcquireUpTo(k K, most int) bool {
	s := c.shardOf(k)
	s.mu.Lock()
	n := s.held[k]
	if most > 0 && n >= most {
		s.mu.Unlock()
		return false
	}
	if s.held == nil {
		s.held = make(map[K]int)
	}
	s.held[k] = n + 1
	s.peak = max(s.peak, len(s.held))
	s.mu.Unlock()
	return true
}

// Release takes one from k. One that k does not have is not taken.
func (c *Counter[K]) Release(k K) {
	s := c.shardOf(k)
	s.mu.Lock()
	n := s.held[k]
	switch {
	case n > 1:
		s.held[k] = n - 1
	case n == 1:
		delete(s.held, k)
		if len(s.held) == 0 && s.peak >= roomy {
			s.held, s.peak = nil, 0
		}
	}
	s.mu.Unlock()
}

// Count returns what k holds.
func (c *Counter[K]) Count(k K) int {
	s := c.shardOf(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[k]
}
