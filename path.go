package egress

import (
	"cmp"
	"context"
	"errors"
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

// paths are the paths that a request may take, in its order.
type paths struct {
	to        exit
	fallback  *exit
	left      *upstream.Group   // that could not serve the request, of which to is the fallback
	selection *selection.Choice // nil as long as no member was chosen
	current   upstream.Attempt
	tries     int  // of members of the group
	told      bool // how the current attempt went
	reached   bool // the current attempt through a member has reached the destination
	answered  bool // the current attempt has brought a head of a response
	stood     bool // the current attempt has got a connection to the destination
	report    destination.Charge
	shut      error // members are passed over, through which the destination fails
}

// begin starts with the target of the route.
func (t *request) beginPaths() error {
	t.paths.to, t.paths.fallback = t.route.to, t.route.fallback
	return t.enter()
}

// enter begins with a target of the route.
func (t *request) enter() error {
	g := t.paths.to.group
	t.out.group = ""
	switch {
	case t.paths.to.deny:
		return failure.Denied.Because(errRouteDenies)
	case g == nil:
		return nil
	}
	t.out.group = g.Name
	if err := t.checkBehind(); err != nil {
		return err
	}
	t.paths.report = g.Destinations().About(t.target, t.https)
	g.Budget.Begin()
	return nil
}

// checkBehind applies the rules to a destination that an upstream will resolve: by
// its name, or, where the operator wants that, by its addresses as we see them.
func (t *request) checkBehind() error {
	if t.p.resolveNames {
		return t.p.direct.CheckNames(t.r.Context(), t.target)
	}
	return t.p.access.Now().CheckUnresolved(t.target)
}

// leaveGroup ends what enter has begun, with the result of the request there. An
// attempt that has told its member nothing until now, such as one whose writer has
// panicked, or whose head could not be written, has had no result.
func (t *request) leaveGroup(err error) {
	g := t.paths.to.group
	if g == nil {
		return
	}
	t.observed(upstream.Verdict{Kind: health.Cancelled})
	t.retries.End()
	g.Budget.End()
	if _, malformed := errors.AsType[*h1.ProtocolError](err); malformed && t.paths.answered {
		err = nil // it has answered; what its answer was is no matter of reaching it
	}
	t.paths.report.Settle(err, t.unreached(err))
}

// unreached reports whether err, of an attempt through an upstream, says that the
// destination cannot be reached. In absolute form nobody knows but the upstream; through
// a tunnel it was reached when that stood, and TLS with it.
func (t *request) unreached(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	f := failure.Of(err)
	if t.use != upstream.Tunnel && t.absolute() {
		_, said := errors.AsType[*proxydial.ReplyError](err)
		return said && f.Unreached()
	}
	return !t.paths.stood && (f.Unreached() || f == failure.UpstreamGateway || f == failure.UpstreamSilent)
}

// connected settles what the current attempt holds when it has its connection. Behind a
// tunnel that was opened just now, the destination was reached: how long the answer takes
// is no matter of that.
func (t *request) connected() {
	if t.absolute() {
		return
	}
	t.paths.stood = true
	if !t.out.reused {
		t.paths.report.Tell(nil)
	}
}

// stands settles what the current attempt holds when the head of a response is there:
// how long the rest takes, and how it ends, is no matter of reaching the destination.
func (t *request) stands(status int) {
	t.retries.End()
	if f := t.out.failure; f != nil {
		t.paths.report.Settle(f, f.Unreached()) // it was the upstream that has answered, to say that it failed
	} else {
		t.paths.report.Tell(nil)
	}
	if t.paths.current.Member != nil {
		v := upstream.JudgeRelayed(status, t.absolute())
		v.Untimed = t.body != nil // it hangs on how fast the client sends
		t.observed(v)
	}
}

// overPaths takes the request over its paths, one after the other, until one of
// them serves it.
func (t *request) overPaths(try func() error) error {
	err := t.beginPaths()
	if err != nil {
		return err
	}
	for {
		err = t.overOneTarget(try)
		if err == nil && t.paths.left != nil && t.out.failure == nil && (t.paths.current.Member == nil || t.paths.reached) {
			t.paths.left.AnsweredElsewhere(t.destinationNumber())
		}
		if err == nil || !t.fallsBack(err) {
			return err
		}
		if err := t.enter(); err != nil {
			return err
		}
	}
}

// overOneTarget is overTarget between enter and leaveGroup.
func (t *request) overOneTarget(try func() error) (err error) {
	err = context.Canceled // that is what a writer that panics means: the client has gone
	defer func() { t.leaveGroup(err) }()
	err = t.overTarget(try)
	return err
}

// overTarget tries one target of the route: directly, or the members of a group.
func (t *request) overTarget(try func() error) error {
	var last error
	for {
		if err := t.choosePath(); err != nil {
			if last != nil {
				return last // it says more than that nobody is left
			}
			return err
		}
		last = try()
		if last == nil || !t.mayRetry(last) {
			return last
		}
		if !t.again {
			t.paths.report.End(last, t.unreached(last))
		}
		if err := t.pauseBetween(); err != nil {
			return err
		}
	}
}

// choosePath finds the path of the next attempt. An attempt that is to be repeated on
// a fresh connection keeps it.
func (t *request) choosePath() error {
	g := t.paths.to.group
	if g == nil {
		t.paths.current = upstream.Attempt{}
		return nil
	}
	if t.again {
		return nil // and the turn of the probe, if it has that
	}
	if t.paths.selection == nil {
		t.paths.selection = t.newSelection()
		var vias []uint64
		vias, t.paths.shut = t.paths.report.Shut()
		for _, via := range vias {
			t.paths.selection.MarkTriedKey(via)
		}
	}
	p, err := t.pick(g)
	if err != nil {
		return err
	}
	t.paths.current, t.paths.told = p, false
	t.paths.tries++
	t.out.upstream = p.Name
	return nil
}

// pick chooses the next member, of those through which the destination may be asked for.
// Where members were passed over and nobody is left, it is for that the request fails.
// (Direct dials ask the circuit themselves.)
func (t *request) pick(g *upstream.Group) (upstream.Attempt, error) {
	turn := exchangeTurn
	if t.use == upstream.Tunnel {
		turn = health.ProbeLimit // which stands or fails in time
	}
	for {
		p, err := g.Pick(t.paths.selection, t.use)
		if err != nil {
			return upstream.Attempt{}, cmp.Or(t.paths.shut, err)
		}
		if err = t.paths.report.Take(p.Key(), turn); err == nil || p.IsProbe() {
			return p, nil // the probe of a member is not put off
		}
		t.paths.shut = err // since just now
	}
}

// newSelection is what policies may know of this request.
func (t *request) newSelection() *selection.Choice {
	return &selection.Choice{
		Request:     t.r,
		User:        t.user,
		Session:     t.session,
		ClientIP:    t.client.IP(),
		Destination: t.target.String(),
		Bodyless:    t.bodyRead,
	}
}

// fallsBack moves on to the fallback of the route, where there is one and the
// group could not serve the request through a fault of its own.
func (t *request) fallsBack(err error) bool {
	if t.paths.fallback == nil || t.clientGone() || t.committed {
		return false
	}
	if _, nobody := errors.AsType[*upstream.NobodyError](err); !nobody {
		e, ok := errors.AsType[*upstream.Error](err)
		if !ok || !t.fallbackTakes(e) {
			return false
		}
		t.resent = t.resent || e.Sent
		if t.body != nil {
			t.body.rewind()
		}
	}
	t.paths.left = t.paths.to.group
	t.paths.to, t.paths.fallback = *t.paths.fallback, nil
	t.paths.selection, t.paths.current, t.paths.tries = nil, upstream.Attempt{}, 0
	t.retries.Made = 0 // the next target has retries of its own
	t.again = false
	t.out.upstream = ""
	return true
}

// fallbackTakes reports whether the fallback takes a request that has failed with e. What
// the group was sent does not leave past all groups: the origin may have brought the
// failure about, and would get to see our own address.
func (t *request) fallbackTakes(e *upstream.Error) bool {
	direct := t.paths.fallback.group == nil && !t.paths.fallback.deny
	return e.OwnFault() && t.mayRepeat(e) && !(e.Sent && direct)
}

// mayRepeat reports whether the request could be sent again if there were another
// path for it.
func (t *request) mayRepeat(err error) bool {
	a, ok := t.lost(err)
	a.Exhausted = false
	return ok && a.Retryable()
}

// pauseBetween waits between two attempts, where the operator wants that.
func (t *request) pauseBetween() error {
	g := t.paths.to.group
	if g == nil || g.Balancing().TryInterval <= 0 || t.again {
		return nil
	}
	timer := time.NewTimer(g.Balancing().TryInterval)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.r.Context().Done():
		return t.r.Context().Err()
	}
}

// observed tells the group how the attempt on the current path ended.
func (t *request) observed(v upstream.Verdict) {
	p := t.paths.current
	if p.Member == nil || t.paths.told {
		return
	}
	t.paths.told, t.paths.reached = true, v.Reached
	p.Group.Observe(p, v, t.destinationNumber())
}

// exhausted reports whether no more members of the group may be tried: as many were,
// or for as long. The pause before the next attempt counts: no attempt begins later.
func (t *request) exhausted() bool {
	g := t.paths.to.group
	return g == nil || t.paths.tries > max(g.Balancing().Retries, 0) ||
		time.Since(t.start)+g.Balancing().TryInterval > g.Balancing().TryDuration
}

// takeRetry asks for a retry: of the budget of the group, unless the same path is
// tried again, on a fresh connection.
func (t *request) takeRetry(samePath bool) bool {
	if g := t.paths.to.group; g != nil && !samePath {
		return t.retries.Next(g.Budget, &t.retries.Made)
	}
	return t.retries.Next(t.p.budget, &t.retries.Again)
}

// destinationNumber is what health knows the destination by.
func (t *request) destinationNumber() uint64 {
	if s := t.paths.selection; s != nil {
		return health.Destination(s.Destination)
	}
	return health.Destination(t.target.String())
}
