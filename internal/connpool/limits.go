package connpool

// This file contains what spans keys: slots of MaxConns, the line of keys that
// wait for one, and the eviction of idle connections.

// acquire takes a slot of MaxConns for a newcomer, and reports whether there
// was one. While keys wait in the line, a newcomer goes to its end.
func (p *Pool[K, C]) acquire() bool {
	return p.blocked.Load() == 0 && p.acquireAhead()
}

// acquireAhead is acquire for the line itself.
func (p *Pool[K, C]) acquireAhead() bool {
	limit := int64(p.cfg.MaxConns)
	if limit == 0 {
		p.open.Add(1)
		return true
	}
	for {
		n := p.open.Load()
		if n >= limit {
			return false
		}
		if p.open.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// block puts a host into the line for MaxConns. Whoever calls it must call
// after when it has unlocked the host: a slot may have become free before the
// host stood in the line. Needs h.mu.
func (p *Pool[K, C]) block(h *host[K, C]) {
	p.blockedMu.Lock()
	defer p.blockedMu.Unlock()
	if h.blocked.in == nil {
		p.blockedHosts.pushBack(&h.blocked, h)
		p.blocked.Store(int64(p.blockedHosts.n))
	}
}

// unblock takes a host out of the line, if it is there. Needs h.mu.
func (p *Pool[K, C]) unblock(h *host[K, C]) {
	if p.blocked.Load() == 0 {
		return // it was put there under h.mu, so we would see it
	}
	p.blockedMu.Lock()
	defer p.blockedMu.Unlock()
	h.blocked.remove()
	p.blocked.Store(int64(p.blockedHosts.n))
}

// nextBlocked takes the first host out of the line, nil if there is none.
func (p *Pool[K, C]) nextBlocked() *host[K, C] {
	p.blockedMu.Lock()
	defer p.blockedMu.Unlock()
	n := p.blockedHosts.front
	if n == nil {
		return nil
	}
	h := n.item
	n.remove()
	p.blocked.Store(int64(p.blockedHosts.n))
	return h
}

// after does what follows a change of a host and cannot be done under its
// lock: it closes what was taken out, keeps to MaxIdle and to what pools share,
// and serves the line for MaxConns. Called without locks.
//
// No wake-up is lost: a key joins the line before it looks for a free slot or
// an idle connection for the last time, and a slot becomes free or a
// connection idle before its owner looks at the line.
func (p *Pool[K, C]) after(stale []*Lease[K, C]) {
	if len(stale) > 0 {
		p.closeAll(stale)
	}
	for (p.idle.Load() > int64(p.cfg.MaxIdle) || p.cfg.Shared.exceeded()) && p.evict() {
	}
	if p.blocked.Load() > 0 {
		p.relieve()
	}
}

// canRelieve reports whether relieve could do something for the line.
func (p *Pool[K, C]) canRelieve() bool {
	return p.blocked.Load() > 0 &&
		(p.idle.Load() > 0 || p.open.Load() < int64(p.cfg.MaxConns))
}

// relieve gives slots of MaxConns to the keys in the line, one each, and makes
// room for them by evicting idle connections.
func (p *Pool[K, C]) relieve() {
	for p.blocked.Load() > 0 {
		if !p.acquireAhead() {
			if !p.evict() {
				return
			}
			continue
		}
		h := p.nextBlocked()
		if h == nil {
			p.open.Add(-1)
			continue // somebody may have joined while we held the slot
		}
		h.mu.Lock()
		stale, left := h.advance(true) // joins the line again if it wants more
		if left {
			p.open.Add(-1)
		}
		p.unlock(h)
		p.closeAll(stale)
	}
}

// evict closes an idle connection that has not been used for long, and reports
// whether there was one. Exact LRU over all keys would need a lock that every
// Release takes; instead the oldest of a sample of hosts is chosen, which is
// among the oldest sixteenth or so (as Redis does).
func (p *Pool[K, C]) evict() bool {
	for p.idle.Load() > 0 {
		h := p.victim()
		if h == nil {
			return false
		}
		if p.evictFrom(h) {
			return true
		}
	}
	return false
}

// evictFrom closes the idle connection of a key that has not been used for
// longest, and reports whether there was one.
func (p *Pool[K, C]) evictFrom(h *host[K, C]) bool {
	h.mu.Lock()
	if h.idle.n == 0 { // somebody took it
		p.unlock(h)
		return false
	}
	l := h.condemn(h.idle.back.item, Evicted)
	p.unlock(h)
	p.closeAll([]*Lease[K, C]{l})
	return true
}

// countIdle notes idle connections more or less.
func (p *Pool[K, C]) countIdle(d int64) {
	p.idle.Add(d)
	p.cfg.Shared.count(d)
}
