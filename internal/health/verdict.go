package health

import (
	"slices"
	"time"
)

// Ask is what the caller is to do about a doubt.
type Ask uint8

// What may be asked for.
const (
	AskNothing  Ask = iota
	AskCheck        // run an active check of the member at once: [Checker.CheckNow]
	AskWarn         // tell the operator that there is no way to find out more
	AskTell         // tell the operator that credentials are refused, which may be wrong
	AskTellSlow     // the same, and that others are asked first therefore
)

// Outcome is what an observation led to.
type Outcome struct {
	// Transitions are the edges, of the member observed or of another one. Nil on
	// almost every call. Log and emit them outside any lock.
	Transitions []Transition

	Doubt Doubt // why something is asked
	Ask   Ask   // about the member observed
}

// Observe records how a request through m ended. m may have left the group since.
//
// A Relayed Failure, which may be the destination's, counts as a SoftFail where that
// destination has failed so, or softly, through several members with no answer since. If
// it is reached through another member then, it is charged after all to those that have
// answered nothing within Window; and so is what else fails through one for which this is
// so of many hosts. It counts as a SoftFail, too, where m has answered for another one lately, and no other
// member is asked or the host was charged to m within Window already; and where only one
// client has such failures, while m serves another one.
func (g *Group) Observe(now time.Time, m *Member, o Observation) (out Outcome) {
	if o.Destination != 0 && o.Unsafe {
		out.Transitions = g.observeUnsafe(instantOf(now), m, &o, nil)
	}
	if o.Destination != 0 {
		var tr Transition
		o.Kind, tr = g.weigh(instantOf(now), m.Upstream, &o)
		out.Transitions = changed(out.Transitions, tr)
	}
	if o.Kind == AuthFault && o.Destination != 0 {
		g.soft.add(o.Destination) // so that an answer is noticed
		o.Served = g.othersServe(instantOf(now), m.Upstream)
	}
	tr, doubt := m.Upstream.Observe(now, &g.cfg.UpstreamConfig, o)
	out.Transitions = changed(out.Transitions, tr)
	if o.Destination != 0 && o.Kind == Success && o.Reached {
		out.Transitions = g.answered(now, m.Upstream, o.Destination, out.Transitions)
	}
	if doubt != NoDoubt {
		out.Doubt, out.Ask = doubt, g.ask(m, doubt)
	}
	return out
}

// weigh returns what a failure for a destination counts as. Where it turns out that the
// destination fails through several members, the first of them is forgiven.
func (g *Group) weigh(now instant, u *Upstream, o *Observation) (Kind, Transition) {
	mayBe := o.Kind == Failure && o.Relayed
	named := o.Kind == Success && o.Named
	if !mayBe && !named && o.Kind != SoftFail && o.Kind != ReplyTimeout {
		return o.Kind, Transition{}
	}
	g.soft.add(o.Destination) // so that an answer is noticed
	answers := u.answeredWithin(now, g.cfg.Window)
	if mayBe && !answers && u.isOwn(now, g.cfg.Window, o.Destination) {
		return o.Kind, Transition{}
	}
	several, first := g.hangUps.several(now, u, o.Destination)
	tr := Transition{}
	if first != nil {
		tr = first.forgive(now, &g.cfg.UpstreamConfig, o.Destination, o.Client)
	}
	switch {
	case !mayBe:
	case u.isFewClients(now, o.Client):
		return SoftFail, tr
	case several && !answers:
		if u.withhold(now, g.cfg.Window, o.Destination) {
			return SoftFail, tr
		}
	case several, o.Alone && answers, !u.charge(now, g.cfg.Window, o.Destination):
		return SoftFail, tr
	}
	return o.Kind, tr
}

// othersServe reports whether another member has reached something lately. Then what is
// refused may be a site, for which requests come from that one: it counts only if the site is
// reached elsewhere.
func (g *Group) othersServe(now instant, u *Upstream) bool {
	return slices.ContainsFunc(g.Members(), func(m *Member) bool { return m.Upstream != u && m.Upstream.reachedWithin(now, servedBefore) })
}

// AnsweredElsewhere tells that a destination was reached past the group.
func (g *Group) AnsweredElsewhere(now time.Time, destination uint64) []Transition {
	return g.answered(now, nil, destination, nil)
}

// answered tells the members that failed for the destination that it was reached,
// through via or past the group.
func (g *Group) answered(now time.Time, via *Upstream, destination uint64, ts []Transition) []Transition {
	if !g.soft.take(destination) {
		return ts
	}
	t := instantOf(now)
	g.hangUps.answered(destination)
	for _, m := range g.Members() {
		if u := m.Upstream; u != via && u.dirty.Load() {
			ts = changed(ts, u.answeredElsewhere(t, &g.cfg.UpstreamConfig, destination))
		}
	}
	return ts
}

// ask tells what can be done about a doubt. Suspicion needs a check with a target:
// that the upstream accepts connections says nothing about its uplink.
func (g *Group) ask(m *Member, d Doubt) Ask {
	c := g.checker.Load()
	switch {
	case d == Slow && g.hasAnother(m, func(*Member) bool { return true }):
		return AskTellSlow
	case d == Withheld, d == Slow:
		return AskTell
	case c != nil && (d == Unanswered || len(c.cfg.Targets) > 0):
		return AskCheck
	case d != Unanswered && !g.cfg.OtherPath && len(g.Members()) < 2:
		return AskWarn
	}
	return AskNothing
}
