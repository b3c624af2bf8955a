package core

import (
	"context"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
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
	return nil
}

func (t *Request) openDirect(tun *Tunnel) (err error) {
	t.Outcome.Attempts++
	tun.conn, err = t.Route.Direct.Dial(dial.WithSlot(t.HTTP.Context(), t.SlotOf(t.Route.Direct.Sources)), t.Target, false)
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
	to     proxydial.Target // what the member is told; zero until it is known
	slot   uint32           // of local addresses that are kept apart by user
	group  upstream.Opening
	probes bool // it is the probe of a circuit
}

// opening is how an attempt ended.
type opening struct {
	path   upstream.Attempt
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
		header: t.connectFields(),
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
		return opening{path: a.path, err: err}
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
		return opening{path: a.path, err: ctx.Err(), late: late}
	}
}

func (a *tunnelAttempt) dial(ctx context.Context) opening {
	ctx, cancel := context.WithTimeout(dial.WithSlot(ctx, a.slot), a.path.Group.Balancing().AttemptTimeout)
	defer cancel()
	start := time.Now()
	if err := a.path.Enter(a.group); err != nil {
		return opening{path: a.path, err: err}
	}
	defer a.path.Leave(a.group)
	tunnel, err := a.path.Conns.Dialer.DialTunnel(ctx, a.to, a.client)
	return opening{path: a.path, tunnel: tunnel, err: err, took: time.Since(start)}
}

// openVia opens the tunnel through the current upstream, and through a second one
// beside it where the first is slow and the group hedges.
func (t *Request) openVia(tun *Tunnel) error {
	p := t.Ways.Current
	t.Outcome.Attempts++
	if !p.StartTunnel() {
		t.Observed(upstream.Verdict{Kind: health.Neutral, Unsent: true})
		t.Ways.report.GiveBack()
		return &upstream.Error{Upstream: p.Name, Verdict: upstream.Verdict{Kind: health.Neutral, Failure: failure.UpstreamLimit}, Err: upstream.ErrFull}
	}
	won := t.race(p)
	if won.path.Key() != p.Key() {
		t.Ways.report.Through(won.path.Key())
	}
	t.Ways.Current = won.path
	t.Outcome.Upstream = won.path.Name
	if won.err != nil {
		return won.err
	}
	tun.slot.Upstream = won.path.Health
	t.Outcome.Reused = won.tunnel.Reused
	tun.conn, tun.early = won.tunnel.Conn, won.tunnel.Early
	return nil
}

// race opens the tunnel through p, and after a while through another member too, if
// the group hedges. It returns the first that stands, or the first failure if none
// does; all others have been told of and let go.
func (t *Request) race(p upstream.Attempt) opening {
	delay := p.Group.HedgeAfter()
	first := t.attemptThrough(p)
	if err := first.resolve(t.HTTP.Context()); err != nil {
		return t.ended(opening{path: first.path, err: err})
	}
	first.probes = p.IsProbe() || t.Ways.report.Probes()
	if delay == 0 {
		return t.ended(first.open(t.HTTP.Context()))
	}
	ctx, cancel := context.WithCancel(t.HTTP.Context())
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
				go func() { results <- second.open(ctx) }()
			}
		case o := <-results:
			running--
			o = t.ended(o)
			if o.err == nil {
				go loseOthers(cancel, results, running, t.destinationNumber())
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
func (t *Request) hedge() (upstream.Attempt, bool) {
	g := t.Ways.To.Group
	if t.exhausted() || !t.Retries.Beside(g.Budget) {
		return upstream.Attempt{}, false
	}
	p, err := g.Pick(t.Ways.selection, t.Use)
	if err != nil {
		t.Retries.NotBeside()
		return upstream.Attempt{}, false
	}
	if !p.StartTunnel() {
		t.Retries.NotBeside()
		g.Observe(p, upstream.Verdict{Kind: health.Neutral, Unsent: true}, 0)
		return upstream.Attempt{}, false
	}
	t.Ways.tries++
	t.Outcome.Attempts++
	return p, true
}

// ended tells the group how an attempt went.
func (t *Request) ended(o opening) opening {
	if o.late != nil {
		return t.leaveProbe(o)
	}
	g := o.path.Group
	v := upstream.JudgeTunnel(t.HTTP.Context(), o.err)
	if o.err != nil {
		e := &upstream.Error{Upstream: o.path.Name, Verdict: v, Err: o.err}
		v.Alone = v.Relayed && !t.HasAnotherWay(e)
		o.err = e
	}
	g.Observe(o.path, v, t.destinationNumber())
	t.Ways.Told, t.Ways.reached = true, v.Reached
	if o.err == nil {
		g.Connected(o.took)
		return o
	}
	o.path.Health.EndTunnel()
	return o
}

// leaveProbe leaves a probe, whose client has gone, to itself.
func (t *Request) leaveProbe(o opening) opening {
	report, destination := t.Ways.report, t.destinationNumber()
	t.Ways.report.Leave()
	t.Ways.Told = true
	late := o
	go func() {
		err := settleLate(late, destination)
		report.Settle(err, err != nil && tunnelUnreached(failure.Of(err)))
	}()
	o.err = &upstream.Error{Upstream: o.path.Name, Verdict: upstream.JudgeTunnel(t.HTTP.Context(), o.err), Err: o.err}
	return o
}

// settleLate tells how a probe has ended that nobody waited for.
func settleLate(o opening, destination uint64) error {
	o = <-o.late
	defer o.path.Health.EndTunnel()
	v := upstream.JudgeTunnel(context.Background(), o.err)
	v.Alone = v.Relayed
	o.path.Group.Observe(o.path, v, destination)
	if o.err != nil {
		return &upstream.Error{Upstream: o.path.Name, Verdict: v, Err: o.err}
	}
	o.path.Group.Connected(o.took)
	_ = o.tunnel.Conn.Close()
	return nil
}

// loseOthers ends the attempts that are not needed any more. That says nothing about
// their upstreams, unless they are probes.
func loseOthers(cancel context.CancelFunc, results <-chan opening, running int, destination uint64) {
	cancel()
	for range running {
		o := <-results
		if o.late != nil {
			_ = settleLate(o, destination)
			continue
		}
		if o.err == nil {
			_ = o.tunnel.Conn.Close()
		}
		o.path.Group.Observe(o.path, upstream.Verdict{Kind: health.Cancelled, Overtaken: true}, 0)
		o.path.Health.EndTunnel()
	}
}
