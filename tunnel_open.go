package egress

import (
	"context"
	"net"
	"time"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
)

// This file contains how a tunnel gets its far end: directly, or through the
// upstreams of a group, of which others are tried while the client has been told
// nothing.

// farEnd is the side of a tunnel that is not the client's.
type farEnd struct {
	conn  net.Conn
	early []byte // came behind the answer of an upstream
}

// openTunnel connects to the destination over the paths of the route.
func (t *transaction) openTunnel(slot *tunnelSlot) (far farEnd, err error) {
	start := time.Now()
	err = t.overPaths(func() error {
		if t.paths.current.member == nil {
			far, err = t.openDirect()
		} else {
			far, err = t.openVia(slot)
		}
		return err
	})
	if err != nil {
		return farEnd{}, err
	}
	t.out.dial = time.Since(start)
	t.out.remote = remoteAddr(far.conn)
	return far, nil
}

func (t *transaction) openDirect() (farEnd, error) {
	t.out.attempts++
	conn, err := t.route.dialer.dialMakingRoom(t.r.Context(), t.target, false)
	return farEnd{conn: conn}, err
}

// opening is an attempt to open a tunnel through an upstream.
type opening struct {
	path   path
	tunnel *proxydial.Tunnel
	err    error
	took   time.Duration
}

// open makes the attempt. It uses only what does not change, and may run beside
// another one.
func (t *transaction) open(ctx context.Context, p path) opening {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.group.lb.AttemptTimeout))
	defer cancel()
	start := time.Now()
	tunnel, err := t.h.dialTunnel(ctx, p.member, t.target, t.clientAddrs(), t.connectFields())
	return opening{path: p, tunnel: tunnel, err: err, took: time.Since(start)}
}

// openVia opens the tunnel through the current upstream, and through a second one
// beside it where the first is slow and the group hedges.
func (t *transaction) openVia(slot *tunnelSlot) (farEnd, error) {
	p := t.paths.current
	t.out.attempts++
	if !p.startTunnel() {
		t.observed(verdict{kind: health.Neutral})
		return farEnd{}, &upstreamError{upstream: p.name, verdict: verdict{kind: health.Neutral, failure: failUpstreamLimit}, err: errUpstreamFull}
	}
	won := t.race(p)
	t.paths.current = won.path
	t.out.upstream = won.path.name
	if won.err != nil {
		return farEnd{}, won.err
	}
	slot.upstream = won.path.health
	t.out.reused = won.tunnel.Reused
	return farEnd{conn: won.tunnel.Conn, early: won.tunnel.Early}, nil
}

// race opens the tunnel through p, and after a while through another member too, if
// the group hedges. It returns the first that stands, or the first failure if none
// does; all others have been told of and let go.
func (t *transaction) race(p path) opening {
	g := p.group
	delay := time.Duration(0)
	if g.lb.Hedge > 0 {
		delay = g.path.state.connect.At(g.lb.Hedge)
	}
	if delay == 0 {
		return t.ended(t.open(t.r.Context(), p))
	}
	ctx, cancel := context.WithCancel(t.r.Context())
	results := make(chan opening, 2)
	go func() { results <- t.open(ctx, p) }()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	running := 1
	var failed opening
	for {
		select {
		case <-timer.C:
			if second, ok := t.hedge(); ok {
				running++
				go func() { results <- t.open(ctx, second) }()
			}
		case o := <-results:
			running--
			o = t.ended(o)
			if o.err == nil {
				go t.loseOthers(cancel, results, running)
				return o
			}
			if failed.err == nil {
				failed = o
			}
			if running == 0 {
				cancel()
				return failed
			}
		}
	}
}

// hedge chooses the member for a second attempt beside the first, if there is one
// and the budget has room.
func (t *transaction) hedge() (path, bool) {
	g := t.paths.to.group
	if t.exhausted() || !t.takeRetry(false) {
		return path{}, false
	}
	p, err := g.pick(t.paths.selection, t.kind)
	if err != nil {
		return path{}, false
	}
	if !p.startTunnel() {
		g.observe(p, verdict{kind: health.Neutral}, 0)
		return path{}, false
	}
	t.paths.tries++
	t.out.attempts++
	return p, true
}

// ended tells the group how an attempt went.
func (t *transaction) ended(o opening) opening {
	g := o.path.group
	v := judgeTunnel(t.r.Context(), o.err)
	g.observe(o.path, v, t.destinationNumber())
	t.paths.told, t.paths.reached = true, v.reached
	if o.err == nil {
		g.path.state.connect.Add(o.took)
		return o
	}
	o.path.health.EndTunnel()
	o.err = &upstreamError{upstream: o.path.name, verdict: v, err: o.err}
	return o
}

// loseOthers ends the attempts that are not needed any more. That says nothing about
// their upstreams.
func (t *transaction) loseOthers(cancel context.CancelFunc, results <-chan opening, running int) {
	cancel()
	for range running {
		o := <-results
		if o.err == nil {
			_ = o.tunnel.Conn.Close()
		}
		o.path.group.observe(o.path, verdict{kind: health.Cancelled}, 0)
		o.path.health.EndTunnel()
	}
}
