package connpool

import (
	"context"
	"time"

	"github.com/caddy-egress/egress/internal/tracing"
)

// waiter is a call of Get that found no idle connection.
type waiter[K comparable, C Conn] struct {
	ctx  context.Context // for the values of its dial
	req  Request[C]
	done chan struct{} // capacity 1: it is settled
	late *time.Timer   // for Config.PendingTimeout; nil until it is needed

	// Guarded by host.mu until done is signalled.

	node    node[waiter[K, C]] // in host.pending, then host.dialers; none once settled or gone
	counted bool               // in Pool.pending
	came    time.Time          // when the wait for a slot began; zero where there was none to wait for
	left    time.Time          // and when it was over
	failed  uint64             // host.failed when the wait began
	dial    *dial[K, C]        // its own, once it has a slot
	lease   *Lease[K, C]
	err     error
}

// newWaiter borrows a waiter; forget gives it back.
func (p *Pool[K, C]) newWaiter(ctx context.Context, req Request[C]) *waiter[K, C] {
	w, _ := p.waiters.Get().(*waiter[K, C])
	if w == nil {
		w = &waiter[K, C]{done: make(chan struct{}, 1)}
	}
	w.ctx, w.req = ctx, req
	return w
}

// forget ends the use of a waiter whose wait has ended: it is in no line, no
// dial has it for its owner, and nothing is left in its channels.
func (p *Pool[K, C]) forget(w *waiter[K, C]) {
	*w = waiter[K, C]{done: w.done, late: w.late}
	p.waiters.Put(w)
}

// settle ends the wait. The waiter is in no line any more. Needs host.mu.
func (w *waiter[K, C]) settle(l *Lease[K, C], err error) {
	w.lease, w.err = l, err
	w.done <- struct{}{}
}

// join lines a request up, with a dial of its own if there is a slot, and
// returns when it is settled. Needs h.mu and releases it.
func (p *Pool[K, C]) join(ctx context.Context, h *host[K, C], req Request[C]) (*Lease[K, C], error) {
	w := p.newWaiter(ctx, req)
	w.failed = h.failed
	h.pending.pushBack(&w.node, w)
	stale, _ := h.advance(false)
	waits := w.node.in == &h.pending
	if !waits {
		p.unlock(h)
		return p.await(h, w, 0)
	}
	w.counted, w.came = true, time.Now()
	p.pending.Add(1)
	if len(stale) > 0 || p.canRelieve() {
		// Room is made by closing idle connections before anybody is refused.
		p.unlock(h)
		p.after(stale)
		h.mu.Lock()
		waits = w.node.in == &h.pending
	}
	if scope := h.refusal(); waits && scope != "" {
		h.dismiss(w)
		h.trimDials()
		p.unlock(h)
		p.forget(w)
		return nil, &LimitError{Scope: scope}
	}
	p.unlock(h)
	// Another key may have made room for MaxConns while this one was locked.
	p.after(nil)
	return p.await(h, w, p.cfg.PendingTimeout)
}

// refusal returns the limit because of which the last in the line may not
// wait for a slot, or "". Needs h.mu.
func (h *host[K, C]) refusal() string {
	p := h.pool
	switch {
	case p.cfg.MaxPendingPerKey == 0 || p.cfg.MaxPending == 0:
		switch {
		case h.full():
			return ScopeConnsPerKey
		case h.dialsFull():
			return ScopeDialsPerKey
		default:
			return ScopeConns
		}
	case h.pending.n > p.cfg.MaxPendingPerKey:
		return ScopePendingPerKey
	case p.pending.Load() > int64(p.cfg.MaxPending):
		return ScopePending
	}
	return ""
}

// await waits until w is settled, its context ends, or it has waited for a
// slot for the given time; 0 is no limit. w is gone when it returns.
func (p *Pool[K, C]) await(h *host[K, C], w *waiter[K, C], timeout time.Duration) (*Lease[K, C], error) {
	l, err := p.wait(h, w, w.expire(timeout))
	if timeout > 0 {
		w.late.Stop() // leaves nothing in its channel
	}
	if !w.came.IsZero() {
		tracing.Past(w.ctx, "egress.queue", w.came, w.left)
		if q, ok := w.req.By.(interface{ Queued(time.Duration) }); ok {
			q.Queued(w.left.Sub(w.came))
		}
	}
	p.forget(w)
	return l, err
}

// expire returns a channel that tells of the end of the given time; 0 is never.
func (w *waiter[K, C]) expire(timeout time.Duration) <-chan time.Time {
	switch {
	case timeout <= 0:
		return nil
	case w.late == nil:
		w.late = time.NewTimer(timeout)
	default:
		w.late.Reset(timeout)
	}
	return w.late.C
}

func (p *Pool[K, C]) wait(h *host[K, C], w *waiter[K, C], expired <-chan time.Time) (*Lease[K, C], error) {
	var closed <-chan struct{}
	if h.loose {
		closed = p.done // Close finds the others through the map
	}
	for {
		select {
		case <-w.done:
			return w.lease, w.err
		case <-w.ctx.Done():
			p.leave(h, w)
			return nil, context.Cause(w.ctx)
		case <-closed:
			p.leave(h, w)
			return nil, ErrClosed
		case <-expired:
			scope, again := p.leaveLate(h, w)
			if again {
				w.late.Reset(p.cfg.PendingTimeout)
			} else if scope != "" {
				return nil, &LimitError{Scope: scope, Timeout: true}
			}
		}
	}
}

// leave ends the wait of a request that is not interested any more.
func (p *Pool[K, C]) leave(h *host[K, C], w *waiter[K, C]) {
	h.mu.Lock()
	if w.node.in == nil { // settled in the meantime
		l := w.lease
		p.unlock(h)
		<-w.done
		if l != nil {
			l.state.Store(statePooled)
			p.putBack(l)
		}
		return
	}
	h.dismiss(w)
	h.trimDials()
	p.unlock(h)
}

// leaveLate ends the wait of a request that is still without a slot, and returns what
// it was that it waited for, "" if it has one. Where that is only that others are being
// dialed, it may wait again, as long as none of these dials has failed since it came.
func (p *Pool[K, C]) leaveLate(h *host[K, C], w *waiter[K, C]) (scope string, again bool) {
	h.mu.Lock()
	defer p.unlock(h)
	switch {
	case w.node.in != &h.pending:
		return "", false
	case !h.dialsFull() || h.full():
		scope = ScopeTimeout
	case h.failed == w.failed:
		return "", true
	default:
		scope = ScopeDialsPerKey
	}
	h.dismiss(w)
	h.trimDials()
	return scope, false
}

// taker returns the first waiter that takes l, or nil. Needs h.mu.
func (h *host[K, C]) taker(l *Lease[K, C]) *waiter[K, C] {
	for _, line := range [...]*list[waiter[K, C]]{&h.dialers, &h.pending} {
		for n := line.front; n != nil; n = n.next {
			if n.item.req.takes(l.conn, l.reused, l.waited) {
				return n.item
			}
		}
	}
	return nil
}

// serve hands l to a waiter. The waiter's own dial, if any, has lost the race
// and is pooled when it is done. Needs h.mu.
func (h *host[K, C]) serve(w *waiter[K, C], l *Lease[K, C]) {
	d := w.dial
	h.dismiss(w)
	if d != nil && h.pool.keepsIdle() {
		d.node.remove() // from abandoned, where dismiss has put it
		h.losers.pushBack(&d.node, d)
	}
	h.trimDials()
	l.state.Store(stateLeased)
	w.settle(l, nil)
}

// dismiss takes a waiter out of the line and abandons its dial, if it has
// one. Needs h.mu.
func (h *host[K, C]) dismiss(w *waiter[K, C]) {
	if w.node.in == &h.pending {
		h.leavePending(w)
		return
	}
	w.node.remove()
	if d := w.dial; d != nil {
		w.dial, d.owner = nil, nil
		h.abandoned.pushBack(&d.node, d)
	}
}

// leavePending takes a waiter out of those without a slot. Needs h.mu.
func (h *host[K, C]) leavePending(w *waiter[K, C]) {
	w.node.remove()
	if w.counted {
		w.counted, w.left = false, time.Now()
		h.pool.pending.Add(-1)
	}
	if h.pending.n == 0 {
		h.pool.unblock(h)
	}
}
