package health

import "time"

// This file contains what may be asked about a group without using it.

// Peek is Available for those who only want to look: the Checker is not told that the
// group is in use.
func (g *Group) Peek(now time.Time) *Snapshot { return g.current(now) }

// ProbeDue returns the member that TryProbe, or with lost TryOverdueProbe, would have
// probed at now, nil for none. It takes no turn.
func (g *Group) ProbeDue(now time.Time, lost bool, takes func(*Member) bool) *Member {
	t := instantOf(now)
	if lost {
		t = t.add(-g.cfg.OpenFor)
	}
	for _, m := range g.current(now).probes {
		if m.Upstream.probeDue(t) && (takes == nil || takes(m)) {
			return m
		}
	}
	return nil
}

// probeDue reports whether TryProbe would give out the turn of a probe at now. Where the
// time of one is over that is under way, the circuit opens again first.
func (u *Upstream) probeDue(now instant) bool {
	at := instant(u.probeAt.Load())
	if at == 0 || now < at {
		return false
	}
	return u.Status().Circuit == Open
}
