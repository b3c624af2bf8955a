package explain

import (
	"fmt"
	"math"
	"time"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains what is told of a group of upstream proxies: its members in the
// order in which they are used, and which one is next.

// Group is a group of upstream proxies.
type Group struct {
	Policy string `json:"policy"` // the name of the selection policy

	// Panic: too few members are in rotation, so circuits are ignored.
	Panic bool `json:"panic,omitempty"`

	// Upstreams are the members: those that may be picked in the order of tiers,
	// then those that may not be.
	Upstreams []Upstream `json:"upstreams"`

	// Next is the upstream that the request would take; several where chance or
	// the order of requests decides between them.
	Next []string `json:"next,omitempty"`

	// Probe: the request would be the probe of Next, whose circuit is open.
	Probe bool `json:"probe,omitempty"`
}

// Upstream is a member of a group.
type Upstream struct {
	Upstream string `json:"upstream"` // without credentials
	Priority int    `json:"priority"` // its tier: lower ones are used first
	Weight   int    `json:"weight"`   // its share, relative to the others

	// State is that in Details in words, or `unknown (not running)`, where there
	// are none.
	State string `json:"state"`

	// Limits are those of this upstream that the request counts towards.
	Limits Limits `json:"limits,omitempty"`

	// Source is where it is dialed from, where it has local addresses or an interface of
	// its own.
	Source *Source `json:"source,omitempty"`

	// ToldLast is the address family that is told last, since the upstream does not reach
	// it: IPv4 or IPv6. Only upstreams that are told addresses have one.
	ToldLast string `json:"told_last,omitempty"`

	// Details are missing where the configuration is not running.
	Details *State `json:"details,omitempty"`
}

// State is the state of a member that runs.
type State struct {
	Admin     string  `json:"admin"`                // ready, drain or maint
	Active    string  `json:"active"`               // by active checks: unknown, up or down
	Circuit   string  `json:"circuit"`              // closed, open or half_open
	AuthFault bool    `json:"auth_fault,omitempty"` // it refuses our credentials
	Refusing  bool    `json:"refusing,omitempty"`   // it does so for much that it has never reached, for which others are asked first
	Pickable  bool    `json:"pickable"`             // requests may take it now
	OpenFor   float64 `json:"open_for,omitempty"`   // seconds until a probe is due
	Exchanges int64   `json:"exchanges"`            // under way
	Tunnels   int64   `json:"tunnels"`              // open
	Latency   float64 `json:"latency,omitempty"`    // to answer, in seconds
	Factor    float64 `json:"factor"`               // the part of its weight that it has now
	Limit     string  `json:"limit,omitempty"`      // the setting that keeps the request away
	LastError string  `json:"last_error,omitempty"` // of the last active check
}

// Unknown is the state of upstreams that nobody has looked at.
const Unknown = "unknown (not running)"

// explainGroup tells of a group, and where the request would go. The error is that of
// Pick.
func (t *Rehearsal) explainGroup(g *upstream.Group) (*Group, error) {
	f, err := g.Foresee(t.NewSelection, t.Use)
	out := &Group{Policy: selection.NameOf(g.Policy()), Panic: f.Panic, Probe: f.Probe}
	now := time.Now()
	for _, m := range f.InRotation {
		out.Upstreams = append(out.Upstreams, t.explainMember(m, now, true))
	}
	for _, m := range f.Out {
		out.Upstreams = append(out.Upstreams, t.explainMember(m, now, false))
	}
	for _, m := range f.Next {
		out.Next = append(out.Next, m.Name)
	}
	return out, err
}

// explainDry tells of a group that does not run.
func (t *Rehearsal) explainDry(g *upstream.Group) *Group {
	out := &Group{Policy: selection.NameOf(g.Policy()), Upstreams: []Upstream{}}
	for _, m := range g.Members() {
		out.Upstreams = append(out.Upstreams, Upstream{
			Upstream: m.Name, Priority: m.Spec.Priority, Weight: m.Spec.Weight, State: Unknown,
			Limits: memberLimits(m, t.Use, false), Source: t.explainSourceTo(m),
		})
	}
	if g.HasSource() {
		out.Upstreams = append(out.Upstreams, Upstream{Upstream: "those of the dynamic source", State: Unknown, Weight: 1})
	}
	return out
}

// explainSourceTo tells where a member is dialed from, nil where that is not a matter
// of its own.
func (t *Rehearsal) explainSourceTo(m *upstream.Member) *Source {
	if !m.Spec.HasSource() {
		return nil
	}
	return t.explainSource(m.Conns.From)
}

// explainMember tells of a member as the request sees it.
func (t *Rehearsal) explainMember(m *upstream.Member, now time.Time, pickable bool) Upstream {
	r := m.Report(now)
	s := &State{
		Admin: r.Admin.String(), Active: r.Active.String(), Circuit: r.Circuit.String(), AuthFault: r.AuthFault, Refusing: r.Refusing,
		Exchanges: r.Exchanges, Tunnels: r.Tunnels,
		Latency: r.Latency.Seconds(), Factor: math.Round(r.Factor*100) / 100,
	}
	switch {
	case t.Use == upstream.Tunnel && m.Full(t.Use):
		s.Limit = "max_tunnels"
	case t.Use == upstream.Exchange && m.Full(t.Use):
		s.Limit = "max_conns and max_pending"
	}
	s.Pickable = pickable && s.Limit == ""
	if !r.OpenUntil.IsZero() {
		s.OpenFor = max(r.OpenUntil.Sub(now), 0).Round(time.Millisecond).Seconds()
	}
	if r.LastError != nil {
		s.LastError = r.LastError.Error()
	}
	return Upstream{
		Upstream: m.Name, Priority: m.Spec.Priority, Weight: m.Spec.Weight,
		State: s.words(), Limits: memberLimits(m, t.Use, true), Source: t.explainSourceTo(m), Details: s,
		ToldLast: m.ToldLast(),
	}
}

// words is the state for people: what is worst, and the limit beside it.
func (s *State) words() string {
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
	case s.Refusing:
		text = "refuses our credentials for much that it has never reached: others are asked first for that, and it about once a second"
	case s.Active == health.Unknown.String():
		text = "not checked"
	}
	if s.Limit != "" {
		text += ", at its limit (" + s.Limit + ")"
	}
	return text
}
