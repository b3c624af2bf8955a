package core

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the paths of a request: which comes next when one has failed.

// Ways are the paths that a request may take, in its order.
type Ways struct {
	To        Exit
	fallback  *Exit
	left      *upstream.Group   // that could not serve the request, of which to is the fallback
	selection *selection.Choice // nil as long as no member was chosen
	Current   Attempt
	report    destination.Charge
	passed    *passedBy // nil where no member is passed over
	tries     int32     // of members of the group
	byName    bool      // only members that resolve the name may be asked
	late      bool      // since it could not be resolved here in time
	forbidden bool      // a member has refused the destination with a 407: see noteForbidden
}

// beginWays starts with the target of the route.
func (t *Request) beginWays() error {
	t.Ways.To, t.Ways.fallback = t.Route.To, t.Route.Fallback
	return t.enter()
}

// enter begins with a target of the route.
func (t *Request) enter() error {
	g := t.Ways.To.Group
	t.Outcome.Group = ""
	switch {
	case t.Ways.To.Deny != nil:
		return failure.Denied.Because(t.Ways.To.Deny)
	case g == nil:
		return nil
	}
	t.Outcome.Group = g.Name
	if err := t.CheckBehind(); err != nil {
		return err
	}
	t.Ways.report = g.Destinations().About(t.Target, t.HTTPS)
	g.Budget.Begin()
	return nil
}

// leaveGroup ends what enter has begun, with the result of the request there. An
// attempt that has told its member nothing until now, such as one whose writer has
// panicked, or whose head could not be written, has had no result.
func (t *Request) leaveGroup(err error) {
	g := t.Ways.To.Group
	if g == nil {
		return
	}
	t.tell(upstream.Verdict{Kind: health.Cancelled})
	t.Retries.End()
	g.Budget.End()
	if _, malformed := errors.AsType[*h1.ProtocolError](err); malformed && t.Ways.Current.answered {
		err = nil // it has answered; what its answer was is no matter of reaching it
	}
	t.Ways.report.Settle(err, t.unreached(err))
}

// unreached reports whether err, of an attempt through an upstream, says that the
// destination cannot be reached. In absolute form nobody knows but the upstream; through
// a tunnel it was reached when that stood, and TLS with it.
func (t *Request) unreached(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	f := failure.Of(err)
	if t.Use != upstream.Tunnel && t.Absolute() {
		_, said := errors.AsType[*proxydial.ReplyError](err)
		return said && f.Unreached()
	}
	return !t.Ways.Current.stood && tunnelUnreached(f)
}

// tunnelUnreached reports whether a failure to open a tunnel through an upstream says that
// the destination cannot be reached.
func tunnelUnreached(f *failure.Failure) bool {
	return f.Unreached() || f == failure.UpstreamGateway || f == failure.UpstreamSilent
}

// OverWays takes the request over its paths, one after the other, until one of
// them serves it.
func (t *Request) OverWays(try func() error) error {
	err := t.beginWays()
	if err != nil {
		return err
	}
	for {
		err = t.overOneExit(try)
		if err == nil && t.Ways.left != nil && t.Outcome.Failure == nil && (t.Ways.Current.Direct() || t.Ways.Current.Reached()) {
			t.Ways.left.AnsweredElsewhere(t.destinationNumber())
		}
		if err == nil || !t.fallsBack(err) {
			return err
		}
		if err := t.enter(); err != nil {
			return err
		}
	}
}

// overOneExit is overExit between enter and leaveGroup.
func (t *Request) overOneExit(try func() error) (err error) {
	err = context.Canceled // that is what a writer that panics means: the client has gone
	defer func() { t.leaveGroup(err) }()
	err = t.overExit(try)
	return err
}

// overExit tries one target of the route: directly, or the members of a group.
func (t *Request) overExit(try func() error) error {
	var last error
	for {
		if err := t.chooseWay(); err != nil {
			if last != nil {
				return last // it says more than that nobody is left
			}
			return err
		}
		last = t.make(try)
		if e, ok := errors.AsType[*upstream.Error](last); ok && e.Sent {
			t.sent = true
		}
		if last == nil || !t.mayRetry(last) {
			return last
		}
		if !t.again {
			t.Ways.report.End(last, t.unreached(last))
		}
		if err := t.pauseBetween(); err != nil {
			return err
		}
	}
}

// chooseWay finds the path of the next attempt. An attempt that is to be repeated on
// a fresh connection keeps it.
func (t *Request) chooseWay() error {
	g := t.Ways.To.Group
	if g == nil {
		t.Ways.Current = Attempt{}
		return nil
	}
	if t.again {
		return nil // and the turn of the probe, if it has that
	}
	if t.Use != upstream.Tunnel {
		if err := t.Hold(); err != nil {
			return err // before it takes the turn of a probe from another client
		}
	}
	if t.Ways.selection == nil {
		if err := g.AwaitMembers(t.HTTP.Context()); err != nil {
			return err
		}
		t.Ways.selection = t.NewSelection()
		if vias, open := t.Ways.report.Shut(); open != nil {
			t.Ways.passed = &passedBy{open, vias}
			for _, via := range vias {
				t.Ways.selection.PassOver(via)
			}
		}
	}
	p, err := t.pick(g)
	if err != nil && t.Ways.late {
		if err = t.AwaitNames(err); err == nil {
			p, err = t.pick(g)
		}
	}
	if err != nil {
		return err
	}
	t.Ways.Current = Attempt{Attempt: p}
	t.Ways.tries++
	t.Outcome.Upstream = p.Name
	return nil
}

// fallsBack moves on to the fallback of the route, where there is one and the
// group could not serve the request through a fault of its own.
func (t *Request) fallsBack(err error) bool {
	if t.Ways.fallback == nil || t.clientGone() || t.Committed {
		return false
	}
	if !t.nobodyServes(err) {
		e, ok := errors.AsType[*upstream.Error](err)
		if !ok || !t.fallbackTakes(e) {
			return false
		}
		t.resent = t.resent || e.Sent
		if t.Body != nil {
			t.Body.Rewind()
		}
	}
	t.Ways.left = t.Ways.To.Group
	t.Outcome.FallbackFrom = t.Ways.left.Name
	t.Ways.To, t.Ways.fallback = *t.Ways.fallback, nil
	t.Ways.selection, t.Ways.Current, t.Ways.tries = nil, Attempt{}, 0
	t.Retries.Made = 0 // the next target has retries of its own
	t.again = false
	t.Outcome.Upstream = ""
	return true
}

// nobodyServes reports whether no member was asked, for no fault of the destination: none
// can be used, or the destination is not asked for through any since they have failed
// in a way that falls back, too.
func (t *Request) nobodyServes(err error) bool {
	if e, nobody := errors.AsType[*upstream.NobodyError](err); nobody {
		return e.FallsBack(t.fallbackIsDirect())
	}
	open, ok := errors.AsType[*destination.OpenError](err)
	return ok && slices.ContainsFunc(open.Causes, upstream.IsOwnFault)
}

// fallbackTakes reports whether the fallback takes a request that has failed with e. What
// any member of the group was sent does not leave past all groups: the origin may have
// brought the failure about, and would get to see our own address. A CONNECT has sent an
// origin nothing.
func (t *Request) fallbackTakes(e *upstream.Error) bool {
	return e.OwnFault() && t.mayRepeat(e) && !((e.Sent || t.sent || t.Ways.forbidden) && t.fallbackIsDirect())
}

func (t *Request) fallbackIsDirect() bool {
	return t.Ways.fallback.Group == nil && t.Ways.fallback.Deny == nil
}

// noteForbidden notes that a member has refused a tunnel to the destination by what it allows
// us: nothing leads past all groups then, as where it says 403.
func (t *Request) noteForbidden(m *upstream.Member, v *upstream.Verdict) {
	t.Ways.forbidden = t.Ways.forbidden || m.Forbids(v, t.destinationNumber())
}

// mayRepeat reports whether the request could be sent again if there were another
// path for it.
func (t *Request) mayRepeat(err error) bool {
	a, ok := t.lost(err)
	a.Exhausted = false
	return ok && a.Retryable()
}

// pauseBetween waits between two attempts, where the operator wants that.
func (t *Request) pauseBetween() error {
	g := t.Ways.To.Group
	if g == nil || g.Balancing().TryInterval <= 0 || t.again {
		return nil
	}
	timer := time.NewTimer(g.Balancing().TryInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.HTTP.Context().Done():
		return t.HTTP.Context().Err()
	}
}

// exhausted reports whether no more members of the group may be tried: as many were,
// or for as long. The pause before the next attempt counts: no attempt begins later.
func (t *Request) exhausted() bool {
	g := t.Ways.To.Group
	return g == nil || int(t.Ways.tries) > max(g.Balancing().Retries, 0) ||
		time.Since(t.Start)+g.Balancing().TryInterval > g.Balancing().TryDuration
}

// takeRetry asks for a retry: of the budget of the group, unless the same path is
// tried again, on a fresh connection.
func (t *Request) takeRetry(samePath bool) bool {
	if g := t.Ways.To.Group; g != nil && !samePath {
		return t.Retries.Next(g.Budget, &t.Retries.Made)
	}
	return t.Retries.Next(t.Proxy.Budget, &t.Retries.Again)
}

// destinationNumber is what health knows the destination by.
func (t *Request) destinationNumber() uint64 {
	if s := t.Ways.selection; s != nil {
		return health.Destination(s.Destination)
	}
	return health.Destination(t.Target.String())
}

// exchangeTurn is for how long an exchange through a group has the turn of the probe. In
// absolute form nothing tells that the destination was reached before the head of the
// response, for which the origin may let its client wait.
const exchangeTurn = time.Second
