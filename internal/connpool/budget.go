package connpool

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// Budget bounds the idle connections of several pools together, for what they
// share: the file descriptors of the process. It costs a request two additions
// to one number.
//
// A pool that makes a connection idle while the budget is exceeded closes one
// of its own that has not been used for long. Pools that are quiet meanwhile
// keep theirs until their idle timeout; Reclaim, for when there is no
// descriptor left, looks at all pools.
type Budget struct {
	max int64

	mu      sync.Mutex
	members []func() member // guarded by mu; return nil when their pool is gone
	prune   int             // guarded by mu; length from which on the gone are looked for

	_    [64]byte // idle changes with every request, what is above does not
	idle atomic.Int64
}

// member is a pool, whatever its keys and connections are.
type member interface {
	idleSample([]candidate) []candidate
}

// candidate is a key with an idle connection.
type candidate struct {
	since time.Time   // when its least recently used one became idle
	evict func() bool // closes that one, if it is still there
}

// NewBudget returns a budget of so many idle connections. 0 and less is no
// limit: there it serves Reclaim alone.
func NewBudget(max int) *Budget { return &Budget{max: int64(max)} }

// Idle returns how many connections are idle in all pools that share b.
func (b *Budget) Idle() int { return int(b.idle.Load()) }

// count notes idle connections more or less. A nil budget does not count.
func (b *Budget) count(d int64) {
	if b != nil {
		b.idle.Add(d)
	}
}

func (b *Budget) exceeded() bool { return b != nil && b.max > 0 && b.idle.Load() > b.max }

// minPrune is how many members are not worth a look for those that are gone.
const minPrune = 16

// add makes a pool known to Reclaim.
func (b *Budget) add(m func() member) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.members) >= max(b.prune, minPrune) {
		b.members = slices.DeleteFunc(b.members, func(m func() member) bool { return m() == nil })
		b.prune = 2 * len(b.members)
	}
	b.members = append(b.members, m)
}

// memberOf refers to a pool weakly: being in a budget does not keep it, and one
// with idle connections is kept by its janitor's timer.
func memberOf[K comparable, C Conn](p *Pool[K, C]) func() member {
	w := weak.Make(p)
	return func() member {
		if p := w.Value(); p != nil {
			return p
		}
		return nil
	}
}

// Reclaim closes up to n idle connections, those first that have not been used
// for longest, whatever pool they are in, and returns how many. Where there are
// many it chooses among a sample: descriptors run out when most is going on, and
// each dial that finds none comes here.
func (b *Budget) Reclaim(n int) int {
	closed := 0
	for closed < n {
		// Of each key the oldest, so that it may take more than one round.
		all := b.candidates()
		slices.SortFunc(all, func(x, y candidate) int { return x.since.Compare(y.since) })
		before := closed
		for _, c := range all[:min(len(all), n-closed)] {
			if c.evict() {
				closed++
			}
		}
		if closed == before {
			break
		}
	}
	return closed
}

// Of each pool and of all together, so many keys compete to lose a connection for want of
// a descriptor.
const (
	reclaimSample  = 4 * sampleSize
	reclaimSamples = 16 * reclaimSample
)

// candidates are keys with an idle connection: all of them, or a sample where there are many.
func (b *Budget) candidates() (all []candidate) {
	b.mu.Lock()
	members := slices.Clone(b.members)
	b.mu.Unlock()
	if len(members) == 0 {
		return nil
	}
	start := rand.IntN(len(members))
	for i := range members {
		if len(all) >= reclaimSamples {
			break
		}
		if m := members[(start+i)%len(members)](); m != nil {
			all = m.idleSample(all)
		}
	}
	return all
}

// idleSample appends a sample of the keys with an idle connection.
func (p *Pool[K, C]) idleSample(all []candidate) []candidate {
	if p.idle.Load() == 0 {
		return all
	}
	p.sample(reclaimSample, func(h *host[K, C], oldest int64) {
		all = append(all, candidate{p.epoch.Add(time.Duration(oldest)), func() bool {
			ok := p.evictFrom(h)
			p.after(nil) // its slot of MaxConns is free
			return ok
		}})
	})
	return all
}
