package health

import "time"

// Ask is what the caller is to do about a doubt.
type Ask uint8

// What may be asked for.
const (
	AskNothing Ask = iota
	AskCheck       // run an active check of the member at once: [Checker.CheckNow]
	AskWarn        // warn the operator: there is no way to find out more
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
// A Failure or AuthFault that may be the destination's counts as a SoftFail where that
// destination has failed so, or softly, through several members with no answer since, or
// no other member is asked, and m has answered for another one lately. An AuthFault needs no other member for that:
// three of them take an upstream out whatever the group says, so one that an origin can
// write is no more than suspicion, until a CONNECT or a check is refused as well, or
// nothing was answered for Window.
func (g *Group) Observe(now time.Time, m *Member, o Observation) (out Outcome) {
	if o.Destination != 0 {
		o.Kind = g.weigh(instantOf(now), m.Upstream, &o)
	}
	tr, doubt := m.Upstream.Observe(now, &g.cfg.UpstreamConfig, o)
	out.Transitions = changed(nil, tr)
	if o.Destination != 0 && o.Kind == Success && o.Reached {
		out.Transitions = g.answered(now, m.Upstream, o.Destination, out.Transitions)
	}
	if doubt != NoDoubt {
		out.Doubt, out.Ask = doubt, g.ask(doubt)
	}
	return out
}

// weigh returns what a failure for a destination counts as. Where it turns out that the
// destination fails through several members, the first of them is forgiven.
func (g *Group) weigh(now instant, u *Upstream, o *Observation) Kind {
	mayBe := (o.Kind == Failure || o.Kind == AuthFault) && o.Relayed
	if !mayBe && o.Kind != SoftFail && o.Kind != ReplyTimeout {
		return o.Kind
	}
	g.soft.add(o.Destination) // so that an answer is noticed
	several, wrongly := g.hangUps.several(now, u, o.Destination, o.Kind == Failure)
	if wrongly != nil && wrongly.answeredWithin(now, g.cfg.Window) {
		wrongly.forgive(now, &g.cfg.UpstreamConfig)
	}
	if mayBe && (several || o.Alone || o.Kind == AuthFault) && u.answeredWithin(now, g.cfg.Window) {
		return SoftFail
	}
	return o.Kind
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
func (g *Group) ask(d Doubt) Ask {
	c := g.checker.Load()
	switch {
	case c != nil && (d == Unanswered || len(c.cfg.Targets) > 0):
		return AskCheck
	case d == Suspect && !g.cfg.OtherPath && len(g.Members()) < 2:
		return AskWarn
	}
	return AskNothing
}
