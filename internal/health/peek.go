package health

import "time"

// This file contains what may be asked about a group without using it.

// Peek is Available for those who only want to look: the Checker is not told that the
// group is in use.
func (g *Group) Peek(now time.Time) *Snapshot { return g.current(now) }

// ProbeDue returns the member that TryProbe, or with lost TryOverdueProbe, would have
// probed at now, nil for none. It takes no turn.
func (g *Group) ProbeDue(now time.Time, lost bool) *Member {
	t := instantOf(now)
	if lost {
		t = t.add(-g.cfg.OpenFor)
	}
	for _, m := range g.current(now).probes {
		if at := instant(m.Upstream.probeAt.Load()); at != 0 && t >= at {
			return m
		}
	}
	return nil
}
