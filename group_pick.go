package egress

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the choice of a member, and what becomes of the result.

// groupView is a snapshot of the members that may be picked, as policies see them.
type groupView struct {
	snapshot  *health.Snapshot
	exchanges [][]selection.Member // by tier
	tunnels   [][]selection.Member
}

// look returns the members that may be picked now. It allocates only when they
// have changed.
func (g *group) look(now time.Time) *groupView {
	return g.viewOf(g.health.Available(now))
}

// viewOf is the view of a snapshot that was just taken. A group that is closed has
// none but the one it was left with, which is looked for only now: the members go
// after it is stored.
func (g *group) viewOf(s *health.Snapshot) *groupView {
	if v := g.frozen.Load(); v != nil {
		return v
	}
	v := g.view.Load()
	if v != nil && v.snapshot == s {
		return v
	}
	v = &groupView{snapshot: s}
	for _, tier := range s.Tiers {
		exchanges := make([]selection.Member, len(tier.Members))
		tunnels := make([]selection.Member, len(tier.Members))
		for i, m := range tier.Members {
			exchanges[i] = forExchange{m.Value.(*member)}
			tunnels[i] = forTunnel{m.Value.(*member)}
		}
		v.exchanges = append(v.exchanges, exchanges)
		v.tunnels = append(v.tunnels, tunnels)
	}
	g.view.Store(v)
	return v
}

// tiers are the members for requests of a kind, those to be used first in front.
func (v *groupView) tiers(kind kind) [][]selection.Member {
	if kind == isTunnel {
		return v.tunnels
	}
	return v.exchanges
}

// path is how one attempt of a request leaves: through a member, or directly where
// there is none.
type path struct {
	*member
	probe   health.Token
	started time.Time
}

// pick chooses the member for the next attempt of a request, one that it has not
// tried. The first attempt may be the probe that a member with an open circuit is
// waiting for.
func (g *group) pick(s *selection.Choice, kind kind) (path, error) {
	now := time.Now()
	if s.Tried() == 0 {
		probe := g.health.TryProbe
		if !repeatable(s, kind) || g.health.LeaveProbe(now, s.Destination) {
			probe = g.health.TryOverdueProbe
		}
		if m, token, ok := probe(now, takesProbe(kind)); ok {
			p := path{member: m.Value.(*member), probe: token, started: now}
			s.MarkTriedKey(p.key)
			return p, nil
		}
	}
	v := g.look(now)
	for _, tier := range v.tiers(kind) {
		s.Members = tier
		if i := g.policy.Select(s); i >= 0 {
			s.MarkTried(i)
			return path{member: memberOf(tier[i]), started: now}, nil
		}
	}
	return path{}, g.whyNobody()
}

// repeatable reports whether a request can go elsewhere when an upstream has taken it
// and failed. One with a body is not counted on: it may be longer than what is kept of
// it, and the upstream cannot answer before the client has sent it.
func repeatable(s *selection.Choice, kind kind) bool {
	return kind == isTunnel || retry.Idempotent(s.Request.Method) && s.Bodyless
}

// takesProbe tells which members can take a probe of this kind at once. One that is
// full, or would let it wait for a connection, tells nothing of its health.
func takesProbe(kind kind) func(*health.Member) bool {
	if kind == isTunnel {
		return takesTunnel
	}
	return takesExchange
}

func takesTunnel(m *health.Member) bool { return !m.Value.(*member).fullForTunnel() }

func takesExchange(m *health.Member) bool {
	u := m.Value.(*member)
	return u.spec.MaxConns <= 0 || u.health.Exchanges() < int64(u.spec.MaxConns)
}

// hasAnother reports whether there is a member that the request has not tried.
func (g *group) hasAnother(s *selection.Choice, kind kind) bool {
	v := g.look(time.Now())
	for _, tier := range v.tiers(kind) {
		s.Members = tier
		for i := range tier {
			if s.Eligible(i) {
				return true
			}
		}
	}
	return false
}

func memberOf(m selection.Member) *member {
	switch m := m.(type) {
	case forExchange:
		return m.member
	case forTunnel:
		return m.member
	}
	return nil
}

// observe tells the health of the group how an attempt ended, and the operator
// what follows from it.
func (g *group) observe(p path, v upstream.Verdict, destination uint64) {
	started := p.started
	if v.Untimed {
		started = time.Time{}
	}
	out := g.health.Observe(time.Now(), &p.ref, health.Observation{
		Kind:        v.Kind,
		Destination: destination,
		RetryAfter:  v.RetryAfter,
		Relayed:     v.Relayed,
		Alone:       v.Alone,
		Reached:     v.Reached,
		Started:     started,
		Probe:       p.probe,
	})
	g.tell(out.Transitions, p.member)
	switch out.Ask {
	case health.AskCheck:
		g.checkNow(p.member)
	case health.AskWarn:
		g.logger.Warn("upstream answers, but reaches none of several destinations; a health_check would tell why",
			zap.String("upstream", p.name))
	}
}

// answeredElsewhere tells the health of the group that a destination was reached past
// it, by a fallback.
func (g *group) answeredElsewhere(destination uint64) {
	g.tell(g.health.AnsweredElsewhere(time.Now(), destination), nil)
}

// tell logs transitions and emits them as events. Those of the member observed are
// told also where a reload has taken it out of the group in the meantime.
func (g *group) tell(transitions []health.Transition, observed *member) {
	for _, t := range transitions {
		if observed != nil && t.Upstream == &observed.health.Upstream {
			g.tellOne(observed, t)
			continue
		}
		for _, m := range g.health.Members() {
			if m.Upstream == t.Upstream {
				g.tellOne(m.Value.(*member), t)
			}
		}
	}
}

func (g *group) tellOne(m *member, t health.Transition) {
	m.conns.dialer.SetUp(t.To.InRotation())
	event := t.Event()
	if event == health.EventNone {
		return
	}
	level, message := zapcore.InfoLevel, "upstream is healthy again"
	switch event {
	case health.EventAuthFailed:
		level, message = zapcore.ErrorLevel, "upstream refuses our credentials: out of rotation"
	case health.EventCircuitOpen:
		level, message = zapcore.WarnLevel, "upstream fails: circuit opened"
	case health.EventCircuitClosed:
		message = "upstream works again: circuit closed"
	case health.EventUnhealthy:
		level, message = zapcore.WarnLevel, "upstream fails its checks: out of rotation"
	}
	fields := []zap.Field{zap.String("upstream", m.name), zap.String("reason", string(t.Reason))}
	if r := m.health.Report(time.Now(), g.health.Config()); r.LastError != nil && t.Reason == health.ReasonCheckFailed {
		fields = append(fields, zap.Error(r.LastError))
	}
	if c := g.logger.Check(level, message); c != nil {
		c.Write(fields...)
	}
	g.events.add(string(event), map[string]any{"group": g.name, "upstream": m.name, "reason": string(t.Reason)})
}
