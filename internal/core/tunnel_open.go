package core

import (
	"context"
	"time"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains how a tunnel gets its far end: directly, or through the
// upstreams of a group, of which others are tried while the client has been told
// nothing.

// openTunnel connects to the destination over the ways of the route.
func (t *Request) openTunnel(tun *Tunnel) (err error) {
	start := time.Now()
	err = t.OverWays(func() error {
		if t.Ways.Current.Direct() {
			return t.openDirect(tun)
		}
		return t.openVia(tun)
	})
	if err != nil {
		return err
	}
	t.Outcome.Dial = time.Since(start)
	t.Outcome.Remote = dial.RemoteAddr(tun.conn)
	t.TracePeer()
	tun.span = t.traced.Span
	return nil
}

func (t *Request) openDirect(tun *Tunnel) (err error) {
	t.Connects()
	tun.conn, err = t.Route.Direct.Dial(dial.WithSlot(t.context(), t.SlotOf(t.Route.Direct.Sources)), t.Target, false)
	return err
}

// tunnelAttempt is an attempt to open a tunnel through an upstream, with what it needs
// of the request. It runs beside the handler and may outlive it, and what Caddy keeps of
// a request (variables, placeholders) is the handler's alone: reading it while the
// handler writes ends the process. So all of it is computed in advance, and of the
// request's context only the end matters here.
type tunnelAttempt struct {
	p      *Proxy
	path   upstream.Attempt
	dest   target.Target
	client proxydial.Client
	header []h1.Field
	to     towards // what the member is told; zero until it is known
	slot   uint32  // of local addresses that are kept apart by user
	group  upstream.Opening
	report destination.Charge
	probes bool // it is the probe of a circuit, of the member or of the destination
}

// opening is how an attempt ended.
type opening struct {
	*tunnelAttempt
	tunnel *proxydial.Tunnel
	err    error
	took   time.Duration
	late   <-chan opening // of a probe that nobody waits for any more: how it ends
}

// attemptThrough prepares an attempt. It is for the goroutine of the handler.
func (t *Request) attemptThrough(p upstream.Attempt) *tunnelAttempt {
	return &tunnelAttempt{
		p:      t.Proxy,
		path:   p,
		dest:   t.Target,
		client: t.clientAddrs(),
		header: t.connectFields(p.Spec.Header),
		slot:   t.SlotOf(p.Conns.From),
		group:  upstream.Opening{Host: t.Target.Host, Port: t.Target.Port, Client: t.Client.IP()},
	}
}

// resolve finds out what the member is told. It may take its time: the clock of the attempt
// begins behind it.
func (a *tunnelAttempt) resolve(ctx context.Context) (err error) {
	if a.to.Host != "" {
		return nil
	}
	start := time.Now()
	a.to, err = a.p.tunnelTarget(ctx, a.path.Member, a.dest)
	a.to.Header = a.header
	a.path.NotCounting(time.Since(start))
	return err
}

// open makes the attempt. A probe goes on to its end beside that, whatever becomes of the
// request: clients that leave, or are served faster, must not keep the upstream and the
// destination from all others.
func (a *tunnelAttempt) open(ctx context.Context) opening {
	if err := a.resolve(ctx); err != nil {
		return opening{tunnelAttempt: a, err: err}
	}
	if !a.probes {
		return a.dial(ctx)
	}
	late := make(chan opening, 1)
	go func() { late <- a.dial(context.WithoutCancel(ctx)) }()
	select {
	case o := <-late:
		return o
	case <-ctx.Done():
		return opening{tunnelAttempt: a, err: ctx.Err(), late: late}
	}
}

func (a *tunnelAttempt) dial(parent context.Context) opening {
	ctx, cancel := context.WithTimeout(dial.WithSlot(parent, a.slot), a.path.Group.Balancing().AttemptTimeout)
	defer cancel()
	start := time.Now()
	if err := a.path.Enter(a.group); err != nil {
		return opening{tunnelAttempt: a, err: err}
	}
	defer a.path.Leave(a.group)
	tunnel, err := dialTunnel(parent, ctx, a.path.Member, a.to, a.client)
	return opening{tunnelAttempt: a, tunnel: tunnel, err: err, took: time.Since(start)}
}

// openVia opens the tunnel through the current upstream, and through a second one
// beside it where the first is slow and the group hedges.
func (t *Request) openVia(tun *Tunnel) error {
	p := t.Ways.Current.Attempt
	t.Connects()
	if err := t.startTunnel(); err != nil {
		return err
	}
	won := t.race(p)
	if won.late == nil {
		t.Ways.report.Join(&won.report)
	}
	t.Ways.Current.Attempt = won.path
	t.Outcome.Upstream = won.path.Name
	if won.err != nil {
		return won.err
	}
	tun.slot.Upstream = won.path.Health
	t.Outcome.Reused = won.tunnel.Reused
	tun.conn, tun.early = won.tunnel.Conn, won.tunnel.Early
	if won.to.told != nil {
		tun.told = won.to.told.Addr()
	}
	return nil
}

// startTunnel takes a place for a tunnel on the current member.
func (t *Request) startTunnel() error {
	p := &t.Ways.Current
	if p.StartTunnel() {
		return nil
	}
	t.tell(upstream.Verdict{Kind: health.Neutral, Unsent: true})
	t.Ways.report.GiveBack()
	return &upstream.Error{Upstream: p.Name, Verdict: upstream.Verdict{Kind: health.Neutral, Failure: failure.UpstreamLimit}, Err: upstream.ErrFull}
}

// race opens the tunnel through p, and after a while through another member too, if
// the group hedges. It returns the first that stands, or the first failure if none
// does; all others have been told of and let go.
func (t *Request) race(p upstream.Attempt) opening {
	delay := p.Group.HedgeAfter()
	first := t.attemptThrough(p)
	first.probes = p.IsProbe() || t.Ways.report.Probes()
	first.report = t.Ways.report.Split()
	if err := first.resolve(t.context()); err != nil {
		return t.ended(opening{tunnelAttempt: first, err: err})
	}
	if delay == 0 {
		return t.ended(first.open(t.context()))
	}
	ctx, cancel := context.WithCancel(t.context())
	results := make(chan opening, 2)
	go func() { results <- first.open(ctx) }()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	running := 1
	var failed opening
	for {
		select {
		case <-timer.C:
			if p, ok := t.hedge(); ok {
				running++
				second := t.attemptThrough(p)
				second.report = t.Ways.report.Beside(p.Key())
				go func() { results <- second.open(ctx) }()
			}
		case o := <-results:
			running--
			o = t.ended(o)
			if o.err == nil {
				t.failedBeside(failed)
				t.Outcome.HedgeWon = o.tunnelAttempt != first
				go loseOthers(cancel, results, running, t.destinationNumber())
				return o
			}
			if failed.err == nil {
				failed = o
			} else {
				t.failedBeside(o)
			}
			if running == 0 {
				cancel()
				return failed
			}
		}
	}
}

// failedBeside charges an attempt that has failed beside the one that the request goes on
// with, as it charges those that have failed before.
func (t *Request) failedBeside(o opening) {
	if o.err != nil && o.late == nil {
		o.report.End(o.err, t.unreached(o.err))
		t.Ways.report.Join(&o.report)
	}
}

// hedge chooses the member for a second attempt beside the first, if there is one
// and the budget has room.
func (t *Request) hedge() (upstream.Attempt, bool) {
	g := t.Ways.To.Group
	if t.exhausted() || !t.Retries.Beside(g.Budget) {
		return upstream.Attempt{}, false
	}
	p, err := g.PickBeside(t.Ways.selection, t.Use)
	if err != nil {
		t.Retries.NotBeside()
		return upstream.Attempt{}, false
	}
	if !p.StartTunnel() {
		t.Retries.NotBeside()
		p.Tell(upstream.Verdict{Kind: health.Neutral, Unsent: true}, 0)
		return upstream.Attempt{}, false
	}
	t.Ways.tries++
	t.Outcome.Attempts++
	t.Outcome.Hedges++
	return p, true
}

// ended tells the group how an attempt went.
func (t *Request) ended(o opening) opening {
	if o.late != nil {
		return t.leaveProbe(o)
	}
	v := o.path.JudgeTunnel(t.HTTP.Context(), o.err)
	if o.err != nil {
		t.noteForbidden(o.path.Member, &v)
		e := &upstream.Error{Upstream: o.path.Name, Verdict: v, Err: o.err}
		v.Alone, v.Err = v.Relayed && !t.HasAnotherWay(e), e.Err
		o.err = e
	}
	o.path.Tell(v, t.destinationNumber())
	if o.err == nil {
		o.path.Group.Connected(o.took)
		return o
	}
	o.path.Health.EndTunnel()
	return o
}

// leaveProbe leaves a probe, whose client has gone, to itself.
func (t *Request) leaveProbe(o opening) opening {
	left := *o.tunnelAttempt // which owns what it holds from here on
	o.path.HandOver()
	go settleProbe(opening{tunnelAttempt: &left, late: o.late}, t.destinationNumber())
	o.err = &upstream.Error{Upstream: o.path.Name, Verdict: o.path.JudgeTunnel(t.HTTP.Context(), o.err), Err: o.err}
	return o
}

// settleProbe tells the member and the destination how a probe has ended, or will end,
// that the request does not go on with.
func settleProbe(o opening, destination uint64) {
	if o.late != nil {
		late := <-o.late
		o.tunnel, o.err, o.took = late.tunnel, late.err, late.took
	}
	defer o.path.Health.EndTunnel()
	v := o.path.JudgeTunnel(context.Background(), o.err)
	v.Alone = v.Relayed
	o.path.Tell(v, destination)
	if o.err != nil {
		err := &upstream.Error{Upstream: o.path.Name, Verdict: v, Err: o.err}
		o.report.Settle(err, tunnelUnreached(failure.Of(err)))
		return
	}
	o.report.Tell(nil)
	o.path.Group.Connected(o.took)
	_ = layers.Close(o.tunnel.Conn)
}

// loseOthers ends the attempts that are not needed any more. That says nothing about
// their upstreams, unless they are probes.
func loseOthers(cancel context.CancelFunc, results <-chan opening, running int, destination uint64) {
	cancel()
	for range running {
		o := <-results
		if o.probes {
			settleProbe(o, destination)
			continue
		}
		if o.err == nil {
			_ = layers.Close(o.tunnel.Conn)
		}
		o.path.Tell(upstream.Verdict{Kind: health.Cancelled, Overtaken: true}, 0)
		o.path.Health.EndTunnel()
	}
}
