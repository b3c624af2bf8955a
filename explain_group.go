package egress

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains what is told of a group of upstream proxies: its members in the
// order in which they are used, and which one is next.

// explainedGroup is a group of upstream proxies.
type explainedGroup struct {
	Policy string `json:"policy"` // the name of the selection policy

	// Panic: too few members are in rotation, so circuits are ignored.
	Panic bool `json:"panic,omitempty"`

	// Upstreams are the members: those that may be picked in the order of tiers,
	// then those that may not be.
	Upstreams []explainedUpstream `json:"upstreams"`

	// Next is the upstream that the request would take; several where chance or
	// the order of requests decides between them.
	Next []string `json:"next,omitempty"`

	// Probe: the request would be the probe of Next, whose circuit is open.
	Probe bool `json:"probe,omitempty"`
}

// explainedUpstream is a member of a group.
type explainedUpstream struct {
	Upstream string `json:"upstream"` // without credentials
	Priority int    `json:"priority"` // its tier: lower ones are used first
	Weight   int    `json:"weight"`   // its share, relative to the others

	// State is that in Details in words, or `unknown (not running)`, where there
	// are none.
	State string `json:"state"`

	// Limits are those of this upstream that the request counts towards.
	Limits explainedLimits `json:"limits,omitempty"`

	// Source is where it is dialed from, where it has local addresses or an interface of
	// its own.
	Source *explainedSource `json:"source,omitempty"`

	// Details are missing where the configuration is not running.
	Details *upstreamState `json:"details,omitempty"`
}

// upstreamState is the state of a member that runs.
type upstreamState struct {
	Admin     string  `json:"admin"`                // ready, drain or maint
	Active    string  `json:"active"`               // by active checks: unknown, up or down
	Circuit   string  `json:"circuit"`              // closed, open or half_open
	AuthFault bool    `json:"auth_fault,omitempty"` // it refuses our credentials
	Pickable  bool    `json:"pickable"`             // requests may take it now
	OpenFor   float64 `json:"open_for,omitempty"`   // seconds until a probe is due
	Exchanges int64   `json:"exchanges"`            // under way
	Tunnels   int64   `json:"tunnels"`              // open
	Latency   float64 `json:"latency,omitempty"`    // to answer, in seconds
	Factor    float64 `json:"factor"`               // the part of its weight that it has now
	Limit     string  `json:"limit,omitempty"`      // the setting that keeps the request away
	LastError string  `json:"last_error,omitempty"` // of the last active check
}

// stateUnknown is the state of upstreams that nobody has looked at.
const stateUnknown = "unknown (not running)"

// explain tells of the group, and where the request would go. The error is that of
// pick.
func (g *group) explain(t *transaction) (*explainedGroup, error) {
	now := time.Now()
	v := g.viewOf(g.health.Peek(now))
	out := &explainedGroup{Policy: policyName(g.policy), Panic: v.snapshot.Panic}
	seen := make(map[*health.Upstream]bool)
	for _, tier := range v.snapshot.Tiers {
		for _, m := range tier.Members {
			seen[m.Upstream] = true
			out.Upstreams = append(out.Upstreams, m.Value.(*member).explain(now, t, true))
		}
	}
	for _, m := range g.health.Members() {
		if !seen[m.Upstream] {
			out.Upstreams = append(out.Upstreams, m.Value.(*member).explain(now, t, false))
		}
	}
	if m := g.health.ProbeDue(now, !repeatable(t.newSelection(), t.kind), takesProbe(t.kind)); m != nil {
		out.Next, out.Probe = []string{m.Value.(*member).name}, true
		return out, nil
	}
	if out.Next = g.foresee(t, v); len(out.Next) == 0 {
		return out, g.whyNobody()
	}
	return out, nil
}

// foresee names the members that pick could choose from for a first attempt.
func (g *group) foresee(t *transaction, v *groupView) []string {
	s := t.newSelection()
	for _, tier := range v.tiers(t.kind) {
		s.Members = tier
		var eligible []string
		for i, m := range tier {
			if s.Eligible(i) {
				eligible = append(eligible, memberOf(m).name)
			}
		}
		if len(eligible) == 0 {
			continue
		}
		if i, ok := selection.Foresee(g.policy, s); ok && i >= 0 {
			return []string{memberOf(tier[i]).name}
		}
		return eligible
	}
	return nil
}

// resolving is how many of the members are given addresses instead of names.
func (g *group) resolving() (n int) {
	for _, m := range g.health.Members() {
		if m.Value.(*member).spec.addr.Scheme == upstream.SOCKS5 {
			n++
		}
	}
	return n
}

// leavesByTransport reports whether there are members that are dialed from where the
// transport says.
func (g *group) leavesByTransport() bool {
	return slices.ContainsFunc(g.health.Members(), func(hm *health.Member) bool {
		s := hm.Value.(*member).spec
		return !s.hasSource() && s.addr.Socket == ""
	})
}

// explainDry tells of a group that does not run.
func (g *group) explainDry(t *transaction) *explainedGroup {
	out := &explainedGroup{Policy: policyName(g.policy), Upstreams: []explainedUpstream{}}
	for _, hm := range g.health.Members() {
		m := hm.Value.(*member)
		out.Upstreams = append(out.Upstreams, explainedUpstream{
			Upstream: m.name, Priority: m.spec.Priority, Weight: m.spec.Weight, State: stateUnknown,
			Limits: m.limits(t.kind, false), Source: t.explainSourceTo(m),
		})
	}
	if g.source != nil {
		out.Upstreams = append(out.Upstreams, explainedUpstream{Upstream: "those of the dynamic source", State: stateUnknown, Weight: 1})
	}
	return out
}

// explainSourceTo tells where a member is dialed from, nil where that is not a matter
// of its own.
func (t *transaction) explainSourceTo(m *member) *explainedSource {
	if !m.spec.hasSource() {
		return nil
	}
	return t.explainSource(m.conns.from)
}

// explain tells of a member as the request sees it.
func (m *member) explain(now time.Time, t *transaction, pickable bool) explainedUpstream {
	kind := t.kind
	r := m.health.Report(now, m.group.health.Config())
	s := &upstreamState{
		Admin: r.Admin.String(), Active: r.Active.String(), Circuit: r.Circuit.String(), AuthFault: r.AuthFault,
		Exchanges: r.Exchanges, Tunnels: r.Tunnels,
		Latency: r.Latency.Seconds(), Factor: math.Round(r.Factor*100) / 100,
	}
	switch {
	case kind == isTunnel && m.fullForTunnel():
		s.Limit = "max_tunnels"
	case kind == isExchange && m.fullForExchange():
		s.Limit = "max_conns and max_pending"
	}
	s.Pickable = pickable && s.Limit == ""
	if !r.OpenUntil.IsZero() {
		s.OpenFor = max(r.OpenUntil.Sub(now), 0).Round(time.Millisecond).Seconds()
	}
	if r.LastError != nil {
		s.LastError = r.LastError.Error()
	}
	return explainedUpstream{
		Upstream: m.name, Priority: m.spec.Priority, Weight: m.spec.Weight,
		State: s.words(), Limits: m.limits(kind, true), Source: t.explainSourceTo(m), Details: s,
	}
}

// words is the state for people: what is worst, and the limit beside it.
func (s *upstreamState) words() string {
	text := "up"
	switch {
	case s.Admin != health.Ready.String():
		text = s.Admin + " (by the operator)"
	case s.Active == health.Down.String():
		text = "down (active check)"
	case s.AuthFault:
		text = "refuses our credentials"
	case s.Circuit == health.HalfOpen.String():
		text = "circuit half-open (a probe is under way)"
	case s.Circuit == health.Open.String() && s.OpenFor > 0:
		text = fmt.Sprintf("circuit open (for %gs)", s.OpenFor)
	case s.Circuit == health.Open.String():
		text = "circuit open (a probe is due)"
	case s.Active == health.Unknown.String():
		text = "not checked"
	}
	if s.Limit != "" {
		text += ", at its limit (" + s.Limit + ")"
	}
	return text
}

// policyName is the name under which a policy is configured.
func policyName(p selection.Policy) string {
	if m, ok := p.(caddy.Module); ok {
		return m.CaddyModule().ID.Name()
	}
	return fmt.Sprintf("%T", p)
}
