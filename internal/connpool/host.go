package connpool

import (
	"sync"
	"sync/atomic"
	"time"
)

// host is all the pool has of one key.
type host[K comparable, C Conn] struct {
	pool  *Pool[K, C]
	key   K
	shard *shard[K, C] // that it is in; nil for a loose one

	// loose is one that the map had no room for. It serves one request, and
	// keeps nothing idle, since nobody would find it.
	loose bool

	// oldest is since when the least recently used idle connection is idle,
	// 0 if none is. Written under mu, read by victim without it.
	oldest atomic.Int64

	// place in Pool.blockedHosts; guarded by Pool.blockedMu
	blocked node[host[K, C]]

	mu sync.Mutex // guards all below

	dead    bool   // it is empty and out of the map, or about to be
	open    int    // slots in use: idle, leased, being dialed, being closed
	dialing int    // of these, being dialed
	closing int    // of these, about to be free
	failed  uint64 // dials that have failed for who asked for them

	idle list[Lease[K, C]] // most recently used first

	// The line of waiters, in two parts. All of the first part came before
	// those of the second, since slots are given out in the same order.
	dialers list[waiter[K, C]] // their dials are under way
	pending list[waiter[K, C]] // waiting for a slot

	// Dials whose requester is served or gone.
	losers    list[dial[K, C]] // it took another connection, or there is none: theirs will be pooled
	abandoned list[dial[K, C]] // it left: wanted only while there are waiters
}

// takeIdle takes the most recently used idle connection that req takes, and
// on the way those that have expired, which the caller hands to after. Their
// slots count as closing; that of l is the caller's. Needs h.mu.
func (h *host[K, C]) takeIdle(req *Request[C], now time.Duration) (l *Lease[K, C], stale []*Lease[K, C]) {
	var next *node[Lease[K, C]]
	for n := h.idle.front; n != nil; n = next {
		next = n.next
		c := n.item
		if now >= c.expires {
			stale = append(stale, h.condemn(c, c.expiry()))
			continue
		}
		if req.takes(c.conn, true, now-c.since+c.waited) {
			h.unpark(c)
			return c, stale
		}
	}
	return nil, stale
}

// takeExpired takes the idle connections that have expired and reports when
// the next one will, 0 if none is left. Needs h.mu.
func (h *host[K, C]) takeExpired(now time.Duration) (stale []*Lease[K, C], next time.Duration) {
	for n := h.idle.front; n != nil; {
		c := n.item
		n = n.next
		if now >= c.expires {
			stale = append(stale, h.condemn(c, c.expiry()))
		} else if next == 0 || c.expires < next {
			next = c.expires
		}
	}
	return stale, next
}

// takeAll takes the idle connections to be closed that unfit names, nil for all. Needs h.mu.
func (h *host[K, C]) takeAll(reason Reason, unfit func(K, C) bool) (stale []*Lease[K, C]) {
	for n := h.idle.front; n != nil; {
		l := n.item
		n = n.next
		if unfit == nil || unfit(h.key, l.conn) {
			stale = append(stale, h.condemn(l, reason))
		}
	}
	return stale
}

// park makes a leased connection idle. Needs h.mu.
func (h *host[K, C]) park(l *Lease[K, C], now time.Duration) {
	timeout := h.pool.cfg.IdleTimeout
	if l.keep > 0 {
		timeout = min(timeout, l.keep)
	}
	l.since = now
	l.expires = min(now+timeout, l.endOfLife)
	l.reused = true // from now on, whether or not it was used before
	h.idle.pushFront(&l.node, l)
	if h.idle.n == 1 {
		h.oldest.Store(int64(now))
		h.shard.idle.Add(1)
	}
	h.pool.countIdle(1)
	h.pool.arm(l.expires)
}

// unpark takes an idle connection out. Its slot is the caller's. Needs h.mu.
func (h *host[K, C]) unpark(l *Lease[K, C]) {
	wasOldest := h.idle.back == &l.node
	l.node.remove()
	h.pool.countIdle(-1)
	if !wasOldest {
		return
	}
	var since int64
	if b := h.idle.back; b != nil {
		since = int64(b.item.since)
	} else {
		h.shard.idle.Add(-1)
	}
	h.oldest.Store(since)
}

// condemn takes an idle connection out to be closed by after. Needs h.mu.
func (h *host[K, C]) condemn(l *Lease[K, C], reason Reason) *Lease[K, C] {
	h.unpark(l)
	return h.closes(l, reason)
}

// closes notes that a connection is about to be closed by after. Needs h.mu.
func (h *host[K, C]) closes(l *Lease[K, C], reason Reason) *Lease[K, C] {
	h.closing++
	l.reason = reason
	return l
}

// expiry is why an idle connection is of no use any more, whose time is over.
func (l *Lease[K, C]) expiry() Reason {
	if l.expires == l.endOfLife {
		return Aged
	}
	return Idle
}

// full reports whether the key has no free slot. Needs h.mu.
func (h *host[K, C]) full() bool {
	limit := h.pool.cfg.MaxConnsPerKey
	return limit > 0 && h.open >= limit
}

// dialsFull reports whether the key may start no dial now. Needs h.mu.
func (h *host[K, C]) dialsFull() bool {
	limit := h.pool.cfg.MaxDialsPerKey
	return limit > 0 && h.dialing >= limit
}

// advance gives free slots to those who wait for one, first come first
// served, and starts their dials. With granted the caller hands over one slot
// of MaxConns that it holds, and left reports that it was not needed.
//
// It is called after whatever might let a waiter dial, so that outside of the
// lock no request waits that could: either the key is at a limit of its own,
// or it stands in the line for MaxConns. Needs h.mu.
func (h *host[K, C]) advance(granted bool) (stale []*Lease[K, C], left bool) {
	p := h.pool
	for h.pending.n > 0 && !h.dialsFull() {
		if h.full() {
			// What is idle here nobody in the line takes, or it would not be
			// idle: it gives its slot to them.
			for h.idle.n > 0 && h.closing < h.pending.n {
				stale = append(stale, h.condemn(h.idle.back.item, Evicted))
			}
			break
		}
		if !granted && !p.acquire() {
			p.block(h)
			break
		}
		granted = false
		h.startDial(h.pending.front.item)
	}
	return stale, granted
}

// place finds the next owner of a connection that is in use by none: the
// first waiter that takes it, or the idle list, or the caller, who has to
// close what is returned. Needs h.mu.
func (h *host[K, C]) place(l *Lease[K, C], now time.Duration) (stale []*Lease[K, C]) {
	p := h.pool
	switch {
	case p.closed.Load():
		return append(stale, h.closes(l, Retired))
	case now >= l.endOfLife:
		return append(stale, h.closes(l, Aged))
	}
	if w := h.taker(l); w != nil {
		h.serve(w, l)
		return nil
	}
	// Beside a waiter that does not take it, it would only be in the way.
	switch {
	case p.retired.Load():
		return append(stale, h.closes(l, Retired))
	case h.loose, !p.keepsIdle(), h.full() && h.closing < h.pending.n && !h.dialsFull():
		return append(stale, h.closes(l, Evicted))
	}
	h.park(l, now)
	if h.idle.n > p.cfg.MaxIdlePerKey {
		stale = append(stale, h.condemn(h.idle.back.item, Evicted))
	}
	return stale
}

// shut takes everything apart that does not belong to a caller. Needs h.mu;
// the pool is closed.
func (h *host[K, C]) shut() []*Lease[K, C] {
	for _, line := range []*list[waiter[K, C]]{&h.dialers, &h.pending} {
		for line.n > 0 {
			w := line.front.item
			h.dismiss(w)
			w.settle(nil, ErrClosed)
		}
	}
	for _, dials := range []*list[dial[K, C]]{&h.losers, &h.abandoned} {
		for dials.n > 0 {
			dials.front.item.giveUp()
		}
	}
	return h.takeAll(Retired, nil)
}
