package explain

import (
	"context"
	"errors"
	"slices"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what is told of the paths of a request, and of the addresses of
// its destination.

// Path is one way in which a request could leave.
type Path struct {
	To      string `json:"to"`               // direct, deny or a group
	Verdict string `json:"verdict"`          // allowed, denied or unavailable
	Reason  string `json:"reason,omitempty"` // where it is not allowed

	// Rule is what decides about a name that an upstream resolves.
	Rule string `json:"rule,omitempty"`

	// Addresses are those of the destination as seen from here, in the order in
	// which they would be dialed, then those that may not be. Empty where an
	// upstream resolves the name.
	Addresses []Addr `json:"addresses,omitempty"`

	// Circuit is that of the destination on this path: closed, open,
	// half_open, or off. Empty where the path is denied.
	Circuit string `json:"circuit,omitempty"`

	// Limits are those of connections to the destination, for an exchange that
	// leaves directly.
	Limits Limits `json:"limits,omitempty"`

	// Source is where connections leave from, unless the system chooses, or the
	// upstream has a local_address or an interface of its own.
	Source *Source `json:"source,omitempty"`

	// Group are the upstreams of the path, where it is not direct.
	Group *Group `json:"group,omitempty"`
}

// Addr is an address of the destination.
type Addr struct {
	Address string `json:"address"` // without a port
	Verdict string `json:"verdict"` // allowed or denied
	Rule    string `json:"rule"`    // that allows it, or why it is refused
	// FailedLately: it could not be connected to, and is tried last.
	FailedLately bool `json:"failed_lately,omitempty"`
}

// OverWays explains the target of the route and its fallback, and returns how the
// request would end.
func (e *Explanation) Ways(t *Rehearsal) error {
	e.Limits = t.limits()
	if t.Use == upstream.Tunnel {
		if err := t.tunnelLimit(); err != nil {
			return err
		}
	}
	err := e.path(t, t.Route.To)
	if t.Route.Fallback == nil {
		return err
	}
	instead := e.path(t, *t.Route.Fallback)
	direct := t.Route.Fallback.Group == nil && t.Route.Fallback.Deny == nil
	if nobody, ok := errors.AsType[*upstream.NobodyError](err); ok && nobody.FallsBack(direct) {
		return instead
	}
	return err
}

// tunnelLimit is TakeSlot for somebody who takes none.
func (t *Rehearsal) tunnelLimit() error {
	if !t.Running {
		return nil
	}
	return t.Proxy.Tunnels.Value.Refuses(t.Client.IP(), t.Client.User(), t.Proxy.Limits)
}

// path explains one target of the route.
func (e *Explanation) path(t *Rehearsal, to core.Exit) error {
	out := Path{To: core.ExitDirect}
	var err error
	switch {
	case to.Deny != nil:
		out.To, err = core.ExitDeny, failure.Denied.Because(to.Deny)
	case to.Group == nil:
		err = out.direct(t)
	default:
		out.To = to.Group.Name
		err = out.through(t, to.Group)
	}
	out.Verdict = endsAs(err)
	if err != nil {
		out.Reason = t.Proxy.Access.Now().Reason(err, t.Target.Port)
	}
	e.Paths = append(e.Paths, out)
	return err
}

// direct explains the way past all upstreams.
func (out *Path) direct(t *Rehearsal) error {
	d := t.Route.Direct
	addrs, err := t.explainAddrs(d.Dialer.Judge, d.Sources.Families(d.Order))
	out.Addresses = addrs
	if endsAs(err) != Denied {
		out.Source, out.Limits = t.explainSource(d.Sources), t.originLimits()
	}
	if !t.Running {
		return err
	}
	var paused error
	out.Circuit, paused = d.Circuits.Look(t.Target, t.HTTPS, t.SlotOf(d.Sources))
	if held := t.holdingLimit(); held != nil {
		return held
	}
	if paused != nil {
		return paused // it is asked before names are
	}
	return err
}

// holdingLimit is hold for somebody who holds nothing.
func (t *Rehearsal) holdingLimit() error {
	if t.Use != upstream.Exchange {
		return nil
	}
	return t.Proxy.Pool.WouldHold(t.Client.IP(), t.Client.User())
}

// through explains the way through a group.
func (out *Path) through(t *Rehearsal, g *upstream.Group) error {
	resolution := g.Resolution()
	if !t.Target.IsAddr() && !t.Proxy.ResolveNames {
		out.Rule = t.Proxy.Access.Now().AllowedUnresolved(t.Target)
	}
	if g.LeavesByTransport() {
		out.Source = t.explainSource(t.Proxy.Direct.Sources)
	}
	var unreachable error
	if out.Rule == "" || resolution&upstream.Here != 0 {
		order := t.Proxy.Direct.Order
		if resolution != upstream.Here {
			order = order.Both() // the upstream decides which it takes
		}
		out.Addresses, unreachable = t.explainAddrs(func(ctx context.Context, dest target.Target, order dial.FamilyOrder) ([]dial.Judged, error) {
			return t.Proxy.Direct.JudgeTold(ctx, dest, order, g)
		}, order)
	}
	t.Ways.To = core.Exit{Group: g}
	if err := t.CheckBehind(); err != nil {
		out.Rule = ""
		return err
	}
	if resolution == upstream.Here && unreachable != nil {
		return unreachable // each of them would be given an address
	}
	if !t.Running {
		out.Group = t.explainDry(g)
		return nil
	}
	out.Circuit, _ = g.Destinations().Look(t.Target, t.HTTPS, 0)
	about := g.Destinations().About(t.Target, t.HTTPS)
	vias, paused := about.Shut()
	if paused != nil && !slices.ContainsFunc(g.Members(), func(m *upstream.Member) bool { return !slices.Contains(vias, m.Key()) }) {
		out.Group, _ = t.explainGroup(g)
		return paused
	}
	var nobody error
	if out.Group, nobody = t.explainGroup(g); nobody != nil {
		if err := t.AwaitNames(nobody); err != nil {
			return err
		}
		if out.Group, nobody = t.explainGroup(g); nobody != nil {
			return nobody
		}
	}
	return t.holdingLimit()
}

// judge says what would be done with the addresses of a destination.
type judge func(context.Context, target.Target, dial.FamilyOrder) ([]dial.Judged, error)

// explainAddrs says of each address of the destination whether it may be dialed. The
// error is what a dial would fail with for want of one.
func (t *Rehearsal) explainAddrs(judge judge, order dial.FamilyOrder) (out []Addr, err error) {
	judged, err := judge(t.HTTP.Context(), t.Target, order)
	for _, j := range judged {
		a := Addr{Address: j.Addr.String(), Verdict: Unavailable, FailedLately: j.FailedLately}
		switch {
		case j.Err != nil:
			a.Verdict, a.Rule = Denied, t.Proxy.Access.Now().Reason(j.Err, t.Target.Port)
		case j.Taken:
			a.Verdict, a.Rule = Allowed, t.Proxy.Access.Now().AllowedAddr(t.Target, j.Addr)
		default:
			a.Rule = "only " + order.First.String() + " is used"
		}
		out = append(out, a)
	}
	return out, err
}
