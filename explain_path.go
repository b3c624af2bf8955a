package egress

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains what is told of the paths of a request, and of the addresses of
// its destination.

// explainedPath is one way in which a request could leave.
type explainedPath struct {
	To      string `json:"to"`               // direct, deny or a group
	Verdict string `json:"verdict"`          // allowed, denied or unavailable
	Reason  string `json:"reason,omitempty"` // where it is not allowed

	// Rule is what decides about a name that an upstream resolves.
	Rule string `json:"rule,omitempty"`

	// Addresses are those of the destination as seen from here, in the order in
	// which they would be dialed, then those that may not be. Empty where an
	// upstream resolves the name.
	Addresses []explainedAddr `json:"addresses,omitempty"`

	// Circuit is that of the destination on this path: closed, open,
	// half_open, or off. Empty where the path is denied.
	Circuit string `json:"circuit,omitempty"`

	// Limits are those of connections to the destination, for an exchange that
	// leaves directly.
	Limits explainedLimits `json:"limits,omitempty"`

	// Source is where connections leave from, unless the system chooses, or the
	// upstream has a local_address or an interface of its own.
	Source *explainedSource `json:"source,omitempty"`

	// Group are the upstreams of the path, where it is not direct.
	Group *explainedGroup `json:"group,omitempty"`
}

// explainedAddr is an address of the destination.
type explainedAddr struct {
	Address string `json:"address"` // without a port
	Verdict string `json:"verdict"` // allowed or denied
	Rule    string `json:"rule"`    // that allows it, or why it is refused
	// FailedLately: it could not be connected to, and is tried last.
	FailedLately bool `json:"failed_lately,omitempty"`
}

// overPaths explains the target of the route and its fallback, and returns how the
// request would end.
func (e *explanation) overPaths(t *transaction) error {
	e.Limits = t.limits()
	if t.kind == isTunnel {
		if err := t.tunnelLimit(); err != nil {
			return err
		}
	}
	err := e.path(t, t.route.to)
	if t.route.fallback == nil {
		return err
	}
	instead := e.path(t, *t.route.fallback)
	if _, nobody := errors.AsType[*noUpstreamError](err); nobody {
		return instead
	}
	return err
}

// tunnelLimit is takeSlot for somebody who takes none.
func (t *transaction) tunnelLimit() error {
	if t.h.dry {
		return nil
	}
	cfg, book := &t.h.tunnel, t.h.tunnels.book
	client, user := clientIP(t.r), t.authenticatedUser()
	switch {
	case cfg.MaxPerClient > 0 && client != "" && book.clients.Count(client) >= cfg.MaxPerClient:
		return &explained{failLimit, errMaxPerClient}
	case cfg.MaxPerUser > 0 && user != "" && book.users.Count(user) >= cfg.MaxPerUser:
		return &explained{failLimit, errMaxPerUser}
	case cfg.MaxTunnels > 0 && book.total.Load() >= int64(cfg.MaxTunnels):
		return &explained{failLimit, errMaxTunnels}
	}
	return nil
}

// path explains one target of the route.
func (e *explanation) path(t *transaction, to destinationPath) error {
	out := explainedPath{To: targetDirect}
	var err error
	switch {
	case to.deny:
		out.To, err = targetDeny, &explained{failDenied, errRouteDenies}
	case to.group == nil:
		err = out.direct(t)
	default:
		out.To = to.group.name
		err = out.through(t, to.group)
	}
	out.Verdict = endsAs(err)
	if err != nil {
		out.Reason = t.h.access.now().reason(err, t.target.Port)
	}
	e.Paths = append(e.Paths, out)
	return err
}

// direct explains the way past all upstreams.
func (out *explainedPath) direct(t *transaction) error {
	d := t.route.dialer
	addrs, err := d.judge(t.r.Context(), t.target, d.sources.order(d.order))
	out.Addresses = addrs
	if endsAs(err) != verdictDenied {
		out.Source, out.Limits = t.explainSource(d.sources), t.originLimits()
	}
	if t.h.dry {
		return err
	}
	var paused error
	out.Circuit, paused = d.circuits.look(t.target, t.https)
	if held := t.holdingLimit(); held != nil {
		return held
	}
	if paused != nil {
		return paused // it is asked before names are
	}
	return err
}

// holdingLimit is hold for somebody who holds nothing.
func (t *transaction) holdingLimit() error {
	p, cfg := t.h.pool, &t.h.transport
	client, user := clientIP(t.r), t.authenticatedUser()
	switch {
	case t.kind != isExchange:
	case p.clients != nil && client != "" && p.clients.Count(client) >= cfg.MaxPerClient:
		return &holdingError{"max_per_client"}
	case p.users != nil && user != "" && p.users.Count(user) >= cfg.MaxPerUser:
		return &holdingError{"max_per_user"}
	}
	return nil
}

// through explains the way through a group.
func (out *explainedPath) through(t *transaction, g *group) error {
	resolving := g.resolving()
	if !t.target.IsAddr() && !t.h.ResolveNames {
		out.Rule = t.h.access.now().allowedUnresolved(t.target)
	}
	if g.leavesByTransport() {
		out.Source = t.explainSource(t.h.dialer.sources)
	}
	var unreachable error
	if out.Rule == "" || resolving > 0 {
		order := t.h.dialer.order
		if resolving == 0 {
			order = order.both() // the upstream decides which it takes
		}
		out.Addresses, unreachable = t.h.dialer.judge(t.r.Context(), t.target, order)
	}
	t.paths.to = destinationPath{group: g}
	if err := t.checkBehind(); err != nil {
		out.Rule = ""
		return err
	}
	if resolving > 0 && resolving == len(g.health.Members()) && unreachable != nil {
		return unreachable // each of them would be given an address
	}
	if t.h.dry {
		out.Group = g.explainDry(t)
		return nil
	}
	out.Circuit, _ = g.destinations.look(t.target, t.https)
	about := g.destinations.about(t.target, t.https)
	vias, paused := about.shut()
	if paused != nil && !slices.ContainsFunc(g.health.Members(), func(m *health.Member) bool { return !slices.Contains(vias, m.Value.(*member).key) }) {
		out.Group, _ = g.explain(t)
		return paused
	}
	var nobody error
	out.Group, nobody = g.explain(t)
	if nobody != nil {
		return nobody
	}
	return t.holdingLimit()
}

// judge resolves dest and says of each of its addresses whether it may be dialed. The
// error is what a dial would fail with for want of one.
func (d *dialer) judge(parent context.Context, dest target.Target, order familyOrder) ([]explainedAddr, error) {
	ctx, cancel := context.WithTimeout(parent, d.timeout)
	defer cancel()
	type judged struct {
		addr netip.Addr
		err  error
	}
	var all []judged
	list, err := d.collect(ctx, hop{
		host: dest.Host,
		addr: dest.Addr,
		port: dest.Port,
		check: func(a netip.Addr) error {
			err := d.check(dest, a)
			all = append(all, judged{a, err})
			return err
		},
	}, order)
	if err != nil {
		return nil, err
	}
	if list.len() == 0 {
		err = list.failure(ctx)
	}
	var out []explainedAddr
	for a, ok := list.next(); ok; a, ok = list.next() {
		out = append(out, explainedAddr{
			Address: a.String(), Verdict: verdictAllowed, Rule: d.access.now().allowedAddr(dest, a),
			FailedLately: d.names.failed.has(netip.AddrPortFrom(a, dest.Port)),
		})
	}
	for _, j := range all {
		text := j.addr.String()
		switch {
		case j.err != nil:
			out = append(out, explainedAddr{Address: text, Verdict: verdictDenied, Rule: d.access.now().reason(j.err, dest.Port)})
		case !slices.ContainsFunc(out, func(o explainedAddr) bool { return o.Address == text }):
			out = append(out, explainedAddr{Address: text, Verdict: verdictUnavailable, Rule: "only " + order.first.String() + " is used"})
		}
	}
	return out, err
}

// order leaves of the families those in which there is a local address, as a pick
// would.
func (s *sources) order(o familyOrder) familyOrder {
	if s == nil {
		return o
	}
	var any source
	for f, list := range s.addrs {
		if len(list) > 0 {
			any.addrs[f] = list[0]
		}
	}
	return any.restrict(o)
}

// look tells of the circuits of a destination, and takes no turn: the state of the first
// that is not closed, and directly the error that refuses a request.
func (d *destinations) look(dest target.Target, useTLS bool) (string, error) {
	if d.off {
		return "off", nil
	}
	r := d.about(dest, useTLS)
	_, err := r.shut()
	state := health.Closed
	if s := d.lookup(d.key(&r)); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.ways {
			if state == health.Closed {
				state = w.circuit.State()
			}
		}
	}
	return state.String(), err
}
