package connpool

import (
	"context"
	"math"
	"math/rand/v2"
	"time"
)

// dial is one call of Requester.Dial under way. All fields but cancel are
// guarded by host.mu.
type dial[K comparable, C Conn] struct {
	cancel context.CancelFunc
	owner  *waiter[K, C]    // who asked for it, nil once served or gone
	node   node[dial[K, C]] // in host.losers or host.abandoned while it has no owner and is wanted
}

// giveUp cancels a dial that nobody wants. Its slot is free when it returns.
// Needs host.mu.
func (d *dial[K, C]) giveUp() {
	d.node.remove()
	d.cancel()
}

// startDial gives the first waiter without a slot the one that the caller has
// found for it in MaxConns, and dials. Needs h.mu.
func (h *host[K, C]) startDial(w *waiter[K, C]) {
	h.leavePending(w)
	h.dialers.pushBack(&w.node, w)
	// The result may serve somebody else, so the end of this request is not
	// the end of its dial: trimDials decides that.
	d, ctx := h.newDial(context.WithoutCancel(w.ctx))
	d.owner = w
	w.dial = d
	by := w.req.By // the waiter may be gone when the goroutine runs
	go func() {
		conn, err := by.Dial(ctx)
		d.cancel()
		h.endDial(d, conn, err)
	}()
}

// newDial records a dial, whose slot of MaxConns the caller has, and gives it a
// context. Needs h.mu.
func (h *host[K, C]) newDial(ctx context.Context) (*dial[K, C], context.Context) {
	h.open++
	h.dialing++
	h.pool.dialing.Add(1)
	d := new(dial[K, C])
	if t := h.pool.cfg.DialTimeout; t > 0 {
		ctx, d.cancel = context.WithTimeout(ctx, t)
	} else {
		ctx, d.cancel = context.WithCancel(ctx)
	}
	return d, ctx
}

// endDial finds an owner for what a dial brought: who asked for it, or as for
// a connection that was given back. A dial that failed concerns only who asked
// for it.
func (h *host[K, C]) endDial(d *dial[K, C], conn C, err error) {
	p := h.pool
	now := p.now()
	var stale []*Lease[K, C]
	h.mu.Lock()
	d.node.remove()
	h.dialing--
	p.dialing.Add(-1)
	w := d.owner
	if w != nil {
		w.dial, d.owner = nil, nil
	}
	switch {
	case err != nil:
		h.open--
		p.open.Add(-1)
		if w != nil {
			h.failed++
			w.node.remove()
			w.settle(nil, err)
		}
	case w != nil:
		h.serve(w, h.newLease(conn, now))
	default:
		stale = h.place(h.newLease(conn, now), now)
	}
	h.trimDials()
	more, _ := h.advance(false)
	p.unlock(h)
	p.after(append(stale, more...))
}

// newLease records a connection that was dialed just now.
func (h *host[K, C]) newLease(conn C, now time.Duration) *Lease[K, C] {
	l := &Lease[K, C]{host: h, conn: conn, endOfLife: math.MaxInt64}
	if life := h.pool.cfg.MaxLifetime; life > 0 {
		l.endOfLife = now + time.Duration(float64(life)*(0.9+0.2*rand.Float64()))
	}
	if c, ok := any(conn).(interface{ Waited() time.Duration }); ok {
		l.waited = c.Waited()
		l.reused = l.waited > 0
	}
	return l
}

// trimDials cancels abandoned dials that are more than those who wait, the
// latest first. Called whenever a waiter has left. Needs h.mu.
func (h *host[K, C]) trimDials() {
	for h.abandoned.n > h.dialers.n+h.pending.n {
		h.abandoned.back.item.giveUp()
	}
}
