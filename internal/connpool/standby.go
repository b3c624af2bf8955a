package connpool

import "context"

// EnsureIdle dials ahead: while fewer than n connections of the key are idle, it
// opens further ones, one after the other, until a dial fails or there is no
// place for them. It returns at once, and does nothing while a dial of an
// earlier call for this key is under way.
//
// The pool does not watch over the number: its owner calls again when it has
// taken one and when one was closed (Conn's Close can tell), and only while the
// peer is thought to be up. What EnsureIdle opens takes no place from others:
// it takes no part in queues, and nothing is evicted for it. A request that
// comes meanwhile dials by itself and takes whichever is there first.
//
// Dial is called as Requester.Dial, but with a context that has no values.
func (p *Pool[K, C]) EnsureIdle(key K, n int, dial func(context.Context) (C, error)) {
	if h, d, ctx := p.startStandby(key, n); d != nil {
		go p.standby(h, d, ctx, n, dial)
	}
}

// standby runs the dials of EnsureIdle, the first of which has its slot.
func (p *Pool[K, C]) standby(h *host[K, C], d *dial[K, C], ctx context.Context, n int, open func(context.Context) (C, error)) {
	for d != nil {
		conn, err := open(ctx)
		d.cancel()
		h.endDial(d, conn, err)
		if err != nil {
			return
		}
		h, d, ctx = p.startStandby(h.key, n)
	}
}

// startStandby takes a slot for a connection to be opened ahead, and returns a
// nil dial if none is wanted or there is no place.
func (p *Pool[K, C]) startStandby(key K, n int) (*host[K, C], *dial[K, C], context.Context) {
	if !p.keepsIdle() || n <= 0 {
		return nil, nil, nil
	}
	h := p.lockHost(key)
	defer p.unlock(h)
	if !h.wantsStandby(n) || !p.acquire() {
		return nil, nil, nil
	}
	d, ctx := h.newDial(context.Background())
	d.standby = true
	h.standby = true
	h.losers.pushBack(&d.node, d) // it will be pooled, whoever asked for it
	return h, d, ctx
}

// wantsStandby reports whether a connection should be opened ahead for the key.
// Needs h.mu.
func (h *host[K, C]) wantsStandby(n int) bool {
	p := h.pool
	switch {
	case p.closed.Load(), h.loose, h.standby:
		return false
	case h.full(), h.dialsFull(), h.pending.n > 0:
		return false
	case p.idle.Load() >= int64(p.cfg.MaxIdle), p.cfg.Shared.full():
		return false // it would have another one closed
	}
	return h.idle.n+h.losers.n < min(n, p.cfg.MaxIdlePerKey)
}
