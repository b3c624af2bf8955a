package connpool

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// defaultShards is how many parts the map has where Config does not say.
const defaultShards = 64

// shardsFor returns the number of parts for what Config says.
func shardsFor(n int) int {
	if n <= 0 {
		return defaultShards
	}
	return 1 << bits.Len(uint(min(n, 1<<16)-1))
}

// shard is one part of the map from key to host. Its lock is held for the
// look-up alone: no other lock is taken under it.
type shard[K comparable, C Conn] struct {
	mu    sync.RWMutex
	hosts map[K]*host[K, C] // guarded by mu; nil until the first
	idle  atomic.Int64      // hosts with an idle connection

	_ [24]byte // to a cache line of its own
}

func (p *Pool[K, C]) shardOf(key K) *shard[K, C] {
	if len(p.shards) == 1 {
		return &p.shards[0]
	}
	return &p.shards[maphash.Comparable(p.seed, key)&uint64(len(p.shards)-1)]
}

// lockHost returns the host of key with its lock held, a new one if there is
// none: in the map, or where that is full, a loose one. The caller holds no
// lock, and ends with unlock.
func (p *Pool[K, C]) lockHost(key K) *host[K, C] {
	s := p.shardOf(key)
	for tried := false; ; {
		s.mu.RLock()
		h := s.hosts[key]
		s.mu.RUnlock()
		if h == nil {
			h = p.addHost(s, key)
		}
		if h == nil && !tried {
			tried = true
			p.evict() // the last connection of its key, perhaps
			p.after(nil)
			continue
		}
		if h == nil {
			h = &host[K, C]{pool: p, key: key, loose: true}
		}
		h.mu.Lock()
		if !h.dead {
			return h
		}
		// It became empty between look-up and lock. Whoever emptied it may
		// not have come to remove it yet.
		h.mu.Unlock()
		p.removeHost(h)
	}
}

// addHost returns the host of key, a new one if there is none, nil if the map
// is full.
func (p *Pool[K, C]) addHost(s *shard[K, C], key K) *host[K, C] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[key]; h != nil {
		return h
	}
	if !p.takeKey() {
		return nil
	}
	if s.hosts == nil {
		s.hosts = make(map[K]*host[K, C])
	}
	h := &host[K, C]{pool: p, key: key, shard: s}
	s.hosts[key] = h
	return h
}

// takeKey counts one more key, if there is room: never more than there may be, not
// even for a moment.
func (p *Pool[K, C]) takeKey() bool {
	for {
		n := p.keys.Load()
		if p.cfg.MaxKeys > 0 && n >= int64(p.cfg.MaxKeys) {
			return false
		}
		if p.keys.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// removeHost takes a dead host out of the map, unless that holds its
// successor already.
func (p *Pool[K, C]) removeHost(h *host[K, C]) {
	s := p.shardOf(h.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hosts[h.key] == h {
		delete(s.hosts, h.key)
		p.keys.Add(-1)
	}
}

// unlock releases h.mu. A host that holds no connection, dial or waiter dies
// and leaves the map; this is what keeps memory flat while keys pass through.
func (p *Pool[K, C]) unlock(h *host[K, C]) {
	// A waiter whose dial is under way holds a slot: dialers need no look.
	empty := h.open == 0 && h.pending.n == 0
	h.dead = empty
	h.mu.Unlock()
	if empty && !h.loose {
		p.removeHost(h)
	}
}

// hosts yields the hosts for which pred, which must not lock, is true; nil
// means all. No lock is held meanwhile. A host added during the iteration may
// be missed.
func (p *Pool[K, C]) hosts(pred func(oldest int64) bool) iter.Seq[*host[K, C]] {
	return func(yield func(*host[K, C]) bool) {
		var batch []*host[K, C]
		for i := range p.shards {
			s := &p.shards[i]
			batch = batch[:0]
			s.mu.RLock()
			for _, h := range s.hosts {
				if pred == nil || pred(h.oldest.Load()) {
					batch = append(batch, h)
				}
			}
			s.mu.RUnlock()
			for _, h := range batch {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// hasIdle selects the hosts with an idle connection.
func hasIdle(oldest int64) bool { return oldest != 0 }

// sampleSize is how many hosts with an idle connection compete to lose one.
const sampleSize = 16

// victim returns the host whose oldest idle connection has been idle longest
// among a sample, or nil if no host has an idle connection.
func (p *Pool[K, C]) victim() *host[K, C] {
	var best *host[K, C]
	var since int64
	p.sample(sampleSize, func(h *host[K, C], oldest int64) {
		if best == nil || oldest < since {
			best, since = h, oldest
		}
	})
	return best
}

// sample shows up to n hosts with an idle connection, and since when the oldest of each
// is idle. It begins at a random shard and the map's own random order does the rest.
// Hosts without an idle connection cost a look each, but for those in shards where none
// has one. look runs under the lock of a shard.
func (p *Pool[K, C]) sample(n int, look func(h *host[K, C], oldest int64)) {
	seen, start := 0, rand.IntN(len(p.shards))
	for i := 0; i < len(p.shards) && seen < n; i++ {
		s := &p.shards[(start+i)%len(p.shards)]
		if s.idle.Load() == 0 {
			continue
		}
		s.mu.RLock()
		for _, h := range s.hosts {
			oldest := h.oldest.Load()
			if oldest == 0 {
				continue
			}
			look(h, oldest)
			if seen++; seen == n {
				break
			}
		}
		s.mu.RUnlock()
	}
}
