package connpool

import (
	"sync/atomic"
	"time"
)

// States of a Lease.
const (
	statePooled uint32 = iota // the pool's, or nobody's any more
	stateLeased               // the caller's
)

// Lease is a connection in the hands of a caller of Get. The same value is
// the pool's record of the connection, so that handing one out costs no
// allocation.
//
// Exactly one of Release, Discard and Detach ends a lease; a second call does nothing,
// unless the connection has been leased to somebody else meanwhile: then it
// takes it from them. A lease must be forgotten when it has ended, as a buffer
// that was given back to a sync.Pool.
type Lease[K comparable, C Conn] struct {
	host  *host[K, C]
	conn  C
	state atomic.Uint32

	// The rest belongs to whoever has the connection: the lessee, or under
	// host.mu the pool.

	reused    bool
	waited    time.Duration // it was idle for so long when Dial has returned it
	reason    Reason        // why it is closed, once it is to be
	keep      time.Duration // what Release was told
	endOfLife time.Duration // moment after which nobody gets it
	since     time.Duration // moment it became idle
	expires   time.Duration // moment it stops being of use as an idle one
	node      node[Lease[K, C]]
}

// Conn returns the connection. It may be used until the lease ends.
func (l *Lease[K, C]) Conn() C { return l.conn }

// Reused reports whether the connection was used or idle before: its peer may
// have closed it in the meantime. False right after a dial, whoever asked for
// it, but for one that had been idle before (see Requester.Dial).
func (l *Lease[K, C]) Reused() bool { return l.reused }

// Release ends the lease of a connection that can be used again. It goes to
// the first waiter of its key that takes it, or becomes idle, or is closed if
// there is no place for it, its life is over or the pool is closed.
//
// A positive keep is how long the connection may be idle where that is less
// than Config.IdleTimeout, for origins that announce it ("Keep-Alive:
// timeout"). 0 leaves it at that; negative is Discard.
func (l *Lease[K, C]) Release(keep time.Duration) {
	if !l.state.CompareAndSwap(stateLeased, statePooled) {
		return
	}
	p := l.host.pool
	l.reused, l.waited = true, 0
	l.keep = keep
	if keep < 0 {
		p.discard(l, Discarded)
		return
	}
	p.putBack(l)
}

// Discard ends the lease of a connection that cannot be used again. It is
// closed, and then its slot lets the first waiter dial.
func (l *Lease[K, C]) Discard() {
	if l.state.CompareAndSwap(stateLeased, statePooled) {
		l.host.pool.discard(l, Discarded)
	}
}

// Detach ends the lease of a connection that has become something else than what is pooled.
// It is the caller's from now on, and counts for no limit of the pool.
func (l *Lease[K, C]) Detach() {
	if l.state.CompareAndSwap(stateLeased, statePooled) {
		l.host.pool.discard(l, Detached)
	}
}

// putBack finds a place for a connection that the caller owns.
func (p *Pool[K, C]) putBack(l *Lease[K, C]) {
	h := l.host
	h.mu.Lock()
	if l.reused && h.dialers.n+h.pending.n > 0 {
		// Somebody may take it at once, and it has to be looked at before.
		// That cannot happen under the lock; nothing is lost by leaving it,
		// since the connection is still the caller's.
		h.mu.Unlock()
		if !l.conn.Alive() {
			p.discard(l, Dead)
			return
		}
		h.mu.Lock()
	}
	stale := h.place(l, p.now())
	p.unlock(h)
	p.after(stale)
}

// discard closes, or lets go, a connection that the caller owns.
func (p *Pool[K, C]) discard(l *Lease[K, C], reason Reason) {
	h := l.host
	h.mu.Lock()
	l.reason = reason
	h.closing++
	h.mu.Unlock()
	p.after([]*Lease[K, C]{l})
}

// closeAll closes condemned connections, but for those that were detached, and then gives
// their slots to those who wait for one. Called without locks; the caller sees to those who
// wait for MaxConns.
func (p *Pool[K, C]) closeAll(stale []*Lease[K, C]) {
	for len(stale) > 0 {
		l := stale[0]
		stale = stale[1:]
		l.tell()
		if l.reason != Detached {
			_ = l.conn.Close() // there is nobody left whom its error could concern
		}
		h := l.host
		h.mu.Lock()
		h.open--
		h.closing--
		p.open.Add(-1)
		more, _ := h.advance(false)
		p.unlock(h)
		stale = append(stale, more...)
	}
}
