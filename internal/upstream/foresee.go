package upstream

import (
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/selection"
)

// This file contains what is told of a group without taking anything of it.

// Policy is what chooses among the members.
func (g *Group) Policy() selection.Policy { return g.cfg.Policy }

// HasSource reports whether members come from a dynamic source.
func (g *Group) HasSource() bool { return len(g.cfg.Sources) > 0 }

// Members are the members in the order of the configuration.
func (g *Group) Members() []*Member {
	all := g.health.Members()
	out := make([]*Member, len(all))
	for i, m := range all {
		out[i] = m.Value.(*Member)
	}
	return out
}

// LeavesByTransport reports whether there are members that are dialed from where the
// transport says.
func (g *Group) LeavesByTransport() bool {
	return slices.ContainsFunc(g.Members(), func(m *Member) bool {
		return !m.Spec.HasSource() && m.Spec.Addr.Socket == ""
	})
}

// Foresight is what Pick would do.
type Foresight struct {
	Panic      bool      // too few members are in rotation, so circuits are ignored
	InRotation []*Member // in the order of their tiers
	Out        []*Member
	Next       []*Member // those that a first attempt could take: several where chance decides
	Probe      bool      // it would be the probe of Next, whose circuit is open
}

// Foresee tells what Pick would do for a request that has tried nobody. Each call of
// choice makes what policies may know of it. The error is that of Pick.
func (g *Group) Foresee(choice func() *selection.Choice, use Use) (f Foresight, err error) {
	now := time.Now()
	v := g.viewOf(g.health.Peek(now))
	f.Panic = v.snapshot.Panic
	seen := make(map[*health.Upstream]bool)
	for _, tier := range v.snapshot.Tiers {
		for _, m := range tier.Members {
			seen[m.Upstream] = true
			f.InRotation = append(f.InRotation, m.Value.(*Member))
		}
	}
	for _, m := range g.health.Members() {
		if !seen[m.Upstream] {
			f.Out = append(f.Out, m.Value.(*Member))
		}
	}
	s := choice()
	client := clientOf(s)
	g.passOver(s, now, client)
	if m := g.health.ProbeDue(now, !repeatable(s, use), client, func(m *health.Member) bool {
		return takesProbe(use)(m) && !s.Excludes(m.Value.(*Member).key)
	}); m != nil {
		f.Next, f.Probe = []*Member{m.Value.(*Member)}, true
		return f, nil
	}
	s = choice()
	if slow := g.passOver(s, now, client); len(slow) > 0 {
		sparing := choice()
		g.passOver(sparing, now, client)
		passOverAll(sparing, slow)
		f.Next = g.next(sparing, v, use, true)
	}
	if len(f.Next) == 0 {
		f.Next = g.next(s, v, use, false)
	}
	if len(f.Next) == 0 {
		return f, g.whyNobody(now, client, s.Destination)
	}
	return f, nil
}

// next are the members that Pick could choose from. The last resort may be left out.
func (g *Group) next(s *selection.Choice, v *groupView, use Use, butLast bool) []*Member {
	for t, tier := range v.tiers(use) {
		if butLast && v.snapshot.Tiers[t].LastResort {
			continue
		}
		s.Members = tier
		var eligible []*Member
		for i, m := range tier {
			if s.Eligible(i) {
				eligible = append(eligible, memberOf(m))
			}
		}
		if len(eligible) == 0 {
			continue
		}
		if i, ok := selection.Foresee(g.cfg.Policy, s); ok && i >= 0 {
			return []*Member{memberOf(tier[i])}
		}
		return eligible
	}
	return nil
}

// HedgeAfter is how long an attempt runs before another one may be made beside it; 0
// where none is.
func (g *Group) HedgeAfter() time.Duration {
	if g.cfg.Balancing.Hedge <= 0 {
		return 0
	}
	return g.cfg.State.connect.At(g.cfg.Balancing.Hedge)
}

// Connected tells how long it took to connect through the group.
func (g *Group) Connected(took time.Duration) { g.cfg.State.connect.Add(took) }
