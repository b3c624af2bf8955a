package upstream

import (
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the choice of a member, and what becomes of the result.

// groupView is a snapshot of the members that may be picked, as policies see them.
type groupView struct {
	snapshot  *health.Snapshot
	exchanges [][]selection.Member // by tier
	tunnels   [][]selection.Member
	upgrades  [][]selection.Member
}

// look returns the members that may be picked now. It allocates only when they
// have changed.
func (g *Group) look(now time.Time) *groupView {
	return g.viewOf(g.health.Available(now))
}

// viewOf is the view of a snapshot that was just taken. A group that is closed has
// none but the one it was left with, which is looked for only now: the members go
// after it is stored.
func (g *Group) viewOf(s *health.Snapshot) *groupView {
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
		upgrades := make([]selection.Member, len(tier.Members))
		for i, m := range tier.Members {
			exchanges[i] = forExchange{m.Value.(*Member)}
			tunnels[i] = forTunnel{m.Value.(*Member)}
			upgrades[i] = forUpgrade{m.Value.(*Member)}
		}
		v.exchanges = append(v.exchanges, exchanges)
		v.tunnels = append(v.tunnels, tunnels)
		v.upgrades = append(v.upgrades, upgrades)
	}
	g.view.Store(v)
	return v
}

// tiers are the members for requests of a use, those to be used first in front.
func (v *groupView) tiers(use Use) [][]selection.Member {
	switch use {
	case Tunnel:
		return v.tunnels
	case Upgrade:
		return v.upgrades
	}
	return v.exchanges
}

// Attempt is the way out of one attempt of a request: through a member, or directly. The
// zero value is direct. What is told of it first is what counts; it is moved, and not
// copied.
type Attempt struct {
	*Member // nil where it is direct
	probe   health.Token
	client  health.Client
	started time.Time
	told    bool
	reached bool
}

// Tell tells the group how the attempt went, if nothing was told of it.
func (a *Attempt) Tell(v Verdict, destination uint64) {
	if a.Member != nil && !a.told {
		a.told, a.reached = true, v.Reached
		a.Group.Observe(*a, v, destination)
	}
}

// Told reports whether the group was told how the attempt went.
func (a *Attempt) Told() bool { return a.told }

// Reached reports whether it was told that the destination was reached.
func (a *Attempt) Reached() bool { return a.reached }

// HandOver leaves the telling to a copy that was just made.
func (a *Attempt) HandOver() { a.told = true }

// Direct reports whether the attempt leaves past all upstreams.
func (a *Attempt) Direct() bool { return a.Member == nil }

// Absolute reports whether an exchange leaves in absolute form: for an origin without TLS,
// through an upstream that speaks HTTP. The connection is the upstream's own then.
func (a *Attempt) Absolute(https bool) bool { return a.Member != nil && !https && a.SpeaksHTTP() }

// Pick chooses the member for the next attempt of a request, one that it has not
// tried. The first attempt may be the probe that a member with an open circuit is
// waiting for.
func (g *Group) Pick(s *selection.Choice, use Use) (Attempt, error) { return g.pick(s, use, false) }

// PickBeside is Pick for an attempt beside one that is under way: nobody is asked who is to be
// asked last.
func (g *Group) PickBeside(s *selection.Choice, use Use) (Attempt, error) {
	return g.pick(s, use, true)
}

func (g *Group) pick(s *selection.Choice, use Use, beside bool) (Attempt, error) {
	now, client := time.Now(), clientOf(s)
	slow := g.passOver(s, now, client)
	if s.Tried() == 0 {
		probe := g.health.TryProbe
		if !repeatable(s, use) || g.health.LeaveProbe(now, s.Destination) {
			probe = g.health.TryOverdueProbe
		}
		takes := takesProbe(use)
		if s.PassesOver() {
			room := takes
			takes = func(m *health.Member) bool { return room(m) && !s.Excludes(m.Value.(*Member).key) }
		}
		if m, token, ok := probe(now, client, takes); ok {
			p := Attempt{Member: m.Value.(*Member), probe: token, client: client, started: now}
			s.MarkTriedKey(p.key)
			return p, nil
		}
	}
	v := g.look(now)
	var m *Member
	if len(slow) > 0 {
		m = g.selectSparing(s, v, use, slow)
	}
	if m == nil && (len(slow) == 0 || !beside) {
		m = g.selectFrom(s, v, use, false)
	}
	if m == nil {
		return Attempt{}, g.whyNobody(now, client, s.Destination)
	}
	m.Health.Asks(now, health.Destination(s.Destination))
	s.MarkTriedKey(m.key)
	return Attempt{Member: m, client: client, started: now}, nil
}

// selectFrom has the policy select a member, tier by tier. The last resort may be left out.
func (g *Group) selectFrom(s *selection.Choice, v *groupView, use Use, butLast bool) *Member {
	for t, tier := range v.tiers(use) {
		if butLast && v.snapshot.Tiers[t].LastResort {
			continue
		}
		s.Members = tier
		if i := g.cfg.Policy.Select(s); i >= 0 {
			return memberOf(tier[i])
		}
	}
	return nil
}

// selectSparing is selectFrom without members that are to be asked last, and without the last
// resort, which comes after these.
func (g *Group) selectSparing(s *selection.Choice, v *groupView, use Use, slow []uint64) *Member {
	before := *s
	passOverAll(s, slow)
	m := g.selectFrom(s, v, use, true)
	*s = before
	return m
}

func passOverAll(s *selection.Choice, keys []uint64) {
	for _, key := range keys {
		s.PassOver(key)
	}
}

// passOver leaves out the members that keep the client away, and returns the keys of those that
// are to be asked only where nobody else can be.
func (g *Group) passOver(s *selection.Choice, now time.Time, client health.Client) (slow []uint64) {
	if !health.AnyKeptAway(now) {
		return nil // the usual case
	}
	kept := g.health.Keeping(now, client, health.Destination(s.Destination))
	for _, m := range g.health.Members() {
		switch key := m.Value.(*Member).key; kept(m) {
		case health.NotKept:
		case health.KeptSlow:
			slow = append(slow, key)
		default:
			s.PassOver(key)
		}
	}
	return slow
}

// clientOf is who a request is from, for the health of the members: its user, or its
// client's address where there is none.
func clientOf(s *selection.Choice) health.Client { return health.ClientOf(s.User, s.ClientIP) }

// repeatable reports whether a request can go elsewhere when an upstream has taken it
// and failed. One with a body is not counted on: it may be longer than what is kept of
// it, and the upstream cannot answer before the client has sent it.
func repeatable(s *selection.Choice, use Use) bool {
	return use == Tunnel || retry.Idempotent(s.Request.Method) && s.Bodyless
}

// takesProbe tells which members can take a probe of this use at once. One that is
// full, or would let it wait for a connection, tells nothing of its health.
func takesProbe(use Use) func(*health.Member) bool {
	switch use {
	case Tunnel:
		return takesTunnel
	case Upgrade:
		return func(m *health.Member) bool { return takesTunnel(m) && takesExchange(m) }
	}
	return takesExchange
}

func takesTunnel(m *health.Member) bool { return !m.Value.(*Member).Full(Tunnel) }

func takesExchange(m *health.Member) bool {
	u := m.Value.(*Member)
	return u.Spec.MaxConns <= 0 || u.Health.Exchanges() < int64(u.Spec.MaxConns)
}

// HasAnother reports whether there is a member that the request has not tried.
func (g *Group) HasAnother(s *selection.Choice, use Use) bool {
	v := g.look(time.Now())
	for _, tier := range v.tiers(use) {
		s.Members = tier
		for i := range tier {
			if s.Eligible(i) {
				return true
			}
		}
	}
	return false
}

// HasBeside reports whether the group has members beside those with some keys.
func (g *Group) HasBeside(keys []uint64) bool {
	return slices.ContainsFunc(g.health.Members(), func(m *health.Member) bool {
		return !slices.Contains(keys, m.Value.(*Member).key)
	})
}

func memberOf(m selection.Member) *Member {
	switch m := m.(type) {
	case forExchange:
		return m.Member
	case forTunnel:
		return m.Member
	case forUpgrade:
		return m.Member
	}
	return nil
}

// Observe tells the health of the group how an attempt ended, and the operator
// what follows from it.
func (g *Group) Observe(p Attempt, v Verdict, destination uint64) {
	now, started := time.Now(), p.started
	if v.Untimed {
		started = time.Time{}
	}
	if v.Login {
		destination = 0
	}
	if v.Question != nil && !p.Health.unknown.charge(v.Question, now) {
		v.Kind = health.Neutral // it failed once, for all who waited
	}
	out := g.health.Observe(now, &p.ref, health.Observation{
		Kind:        v.Kind,
		Destination: destination,
		RetryAfter:  v.RetryAfter,
		Relayed:     v.Relayed,
		Alone:       v.Alone,
		Reached:     v.Reached,
		Named:       v.Named,
		LoggedIn:    v.LoggedIn,
		Anonymous:   v.Kind == health.AuthFault && !p.Authenticates(),
		ToldClient:  p.Spec.ProxyProtocol != "",
		Absolute:    v.Absolute,
		Unsafe:      v.Unsafe,
		Refused:     v.Kind == health.Failure && v.Failure == failure.UpstreamAuth,
		Unsent:      v.Unsent,
		Overtaken:   v.Overtaken,
		Started:     started,
		Probe:       p.probe,
		Client:      p.client,
	})
	p.Health.counts.results[min(v.Kind, health.Kinds-1)].Add(1)
	p.Health.noteFault(now, &v)
	g.tell(out.Transitions, p.Member)
	if out.Doubt == health.Suspect {
		g.tellSuspect(p.Member, out.Ask)
	}
	switch out.Ask {
	case health.AskCheck:
		g.checkNow(p.Member)
	case health.AskTell:
		g.cfg.Logger.Warn("upstream refuses our credentials again and again for destinations that it has not reached: they may be wrong, or these sites not allowed",
			zap.String("upstream", p.Name))
	case health.AskTellSlow:
		g.cfg.Logger.Warn("upstream refuses our credentials for most destinations that it has not reached: they may be wrong; others are asked for these first, and it about once a second, until more of them are reached",
			zap.String("upstream", p.Name))
	}
}

// AnsweredElsewhere tells the health of the group that a destination was reached past
// it, by a fallback.
func (g *Group) AnsweredElsewhere(destination uint64) {
	g.tell(g.health.AnsweredElsewhere(time.Now(), destination), nil)
}

// tell logs transitions and emits them as events. Those of the member observed are
// told also where a reload has taken it out of the group in the meantime.
func (g *Group) tell(transitions []health.Transition, observed *Member) {
	for _, t := range transitions {
		if observed != nil && t.Upstream == &observed.Health.Upstream {
			g.tellOne(observed, t)
			continue
		}
		for _, m := range g.health.Members() {
			if m.Upstream == t.Upstream {
				g.tellOne(m.Value.(*Member), t)
			}
		}
	}
}

func (g *Group) tellOne(m *Member, t health.Transition) {
	m.Health.cameOrWent()
	event := t.Event()
	if event == health.EventNone {
		return
	}
	m.Health.counts.transition(event)
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
	fields := []zap.Field{zap.String("upstream", m.Name), zap.String("reason", string(t.Reason))}
	data := map[string]any{"group": g.Name, "upstream": m.Name, "reason": string(t.Reason)}
	if text := m.lastError(event, t.Reason); text != "" {
		fields = append(fields, zap.String("error", text))
		data["error"] = text
	}
	if c := g.cfg.Logger.Check(level, message); c != nil {
		c.Write(fields...)
	}
	g.events.Add(string(event), data)
}

// lastError is what has gone wrong last, where a member leaves the rotation: of checks where
// these have found it out, otherwise of requests.
func (m *Member) lastError(event health.Event, why health.Reason) string {
	switch event {
	case health.EventHealthy, health.EventCircuitClosed:
		return ""
	}
	r := m.Report(time.Now())
	if r.LastError != nil && (why == health.ReasonCheckFailed || why == health.ReasonSuspicion) {
		return plaintext.Short(r.LastError.Error(), maxFault)
	}
	if f := m.Health.fault.Load(); f != nil {
		return f.Text
	}
	if r.LastError != nil {
		return plaintext.Short(r.LastError.Error(), maxFault)
	}
	return ""
}

// NotCounting takes time off the latency that the attempt will tell: what took it was none
// of the member's doing.
func (a *Attempt) NotCounting(d time.Duration) { a.started = a.started.Add(d) }

// IsProbe reports whether the attempt is the probe of a member whose circuit is open.
func (a *Attempt) IsProbe() bool { return a.probe != 0 }
