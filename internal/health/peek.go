package health

import "time"

// This file contains what may be asked about a group without using it.

// Peek is Available for those who only want to look: the Checker is not told that the
// group is in use.
func (g *Group) Peek(now time.Time) *Snapshot { return g.current(now) }

// Survey is Peek for those who must not miss an edge: it looks at the members themselves, where
// Peek may return what another goroutine is about to replace.
func (g *Group) Survey(now time.Time) *Snapshot {
	s, _ := survey(instantOf(now), &g.cfg.UpstreamConfig, g.Members())
	return s
}

// ProbeDue returns the member that TryProbe, or with lost TryOverdueProbe, would have
// probed at now for a client, nil for none. It takes no turn.
func (g *Group) ProbeDue(now time.Time, lost bool, client Client, takes func(*Member) bool) *Member {
	t := instantOf(now)
	since := t
	if lost {
		since = t.add(-g.cfg.OpenFor)
	}
	for _, m := range g.current(now).probes {
		if instant(m.Upstream.probeAt.Load()) <= since && m.Upstream.probeDue(t, client, &g.cfg.UpstreamConfig) && (takes == nil || takes(m)) {
			return m
		}
	}
	return nil
}

// probeDue reports whether TryProbe would give out the turn of a probe at now. Where the
// time of one is over that is under way, the circuit opens again first.
func (u *Upstream) probeDue(now instant, client Client, cfg *UpstreamConfig) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.breaker
	return u.status().probeable() && b.tryProbe(now, client, ProbeLimit, cfg) != 0
}
