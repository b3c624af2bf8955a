package health

import (
	"cmp"
	"slices"
)

// Snapshot is who may be picked, as of one moment. It is immutable.
type Snapshot struct {
	// Tiers holds the members that may be picked, in the order in which tiers are
	// to be used: by priority, but those that panic alone filled come last. No tier
	// is empty.
	Tiers []Tier

	// Panic: too few members are in rotation, so ejection is ignored.
	Panic bool

	// InRotation and Ready count the members in rotation, and those that the
	// operator has not taken out.
	InRotation, Ready int

	probes  []*Member // that a probe could bring back, by priority
	expires instant   // when it must be made anew for reasons of time; 0: never
}

// Tier is the members of one priority.
type Tier struct {
	Priority int
	Members  []*Member

	// Panic: all of them are ejected, and here because of panic.
	Panic bool
}

// candidate is a member that may be picked, or may be in panic.
type candidate struct {
	m       *Member
	ejected bool
}

// survey makes a snapshot. probeAt is the instant from which a probe may be due; 0:
// none.
func survey(now instant, cfg *UpstreamConfig, members []*Member) (s *Snapshot, probeAt instant) {
	s = new(Snapshot)
	var cands []candidate
	for _, m := range members {
		st := m.Upstream.Status()
		if st.Admin == Ready {
			s.Ready++
		}
		switch {
		case st.InRotation():
			s.InRotation++
			cands = append(cands, candidate{m: m})
		case st.probeable():
			s.probes = append(s.probes, m)
			if st.ejected() {
				cands = append(cands, candidate{m, true})
			}
		}
	}
	s.Panic = float64(s.InRotation) < cfg.PanicBelow*float64(s.Ready)-rounding
	if s.Panic {
		cands = s.withoutFailing(now, cfg, cands)
	} else {
		cands = slices.DeleteFunc(cands, func(c candidate) bool { return c.ejected })
	}
	s.arrange(cands)
	return s, s.arrangeProbes()
}

// withoutFailing drops those whose last connect or check failed, if that leaves
// any. One that is in rotation is dropped for a failed connect only for as long as
// a circuit would open: nothing else would ever try it again.
func (s *Snapshot) withoutFailing(now instant, cfg *UpstreamConfig, cands []candidate) []candidate {
	good := make([]candidate, 0, len(cands))
	expires := instant(0)
	for _, c := range cands {
		st := c.m.Upstream.Status()
		until := instant(c.m.Upstream.failedAt.Load()).add(cfg.OpenFor)
		switch {
		case !st.ConnectFailed && !st.CheckFailed:
			good = append(good, c)
		case c.ejected || st.CheckFailed:
		case now < until:
			expires = earlier(expires, until)
		default:
			good = append(good, c)
		}
	}
	if len(good) == 0 {
		return cands
	}
	s.expires = expires
	return good
}

// arrange fills the tiers.
func (s *Snapshot) arrange(cands []candidate) {
	slices.SortStableFunc(cands, func(a, b candidate) int { return cmp.Compare(a.m.Priority, b.m.Priority) })
	for i, c := range cands {
		if i == 0 || c.m.Priority != cands[i-1].m.Priority {
			s.Tiers = append(s.Tiers, Tier{Priority: c.m.Priority, Panic: true})
		}
		tier := &s.Tiers[len(s.Tiers)-1]
		tier.Members = append(tier.Members, c.m)
		tier.Panic = tier.Panic && c.ejected
	}
	slices.SortStableFunc(s.Tiers, func(a, b Tier) int {
		switch {
		case a.Panic == b.Panic:
			return 0
		case a.Panic:
			return 1
		}
		return -1
	})
}

// arrangeProbes orders the members to probe and drops those of tiers that are not
// in use: a standby tier gets no request while the tiers before it serve. It
// returns when the first of them is due.
func (s *Snapshot) arrangeProbes() (first instant) {
	if len(s.Tiers) > 0 && !s.Tiers[0].Panic {
		s.probes = slices.DeleteFunc(s.probes, func(m *Member) bool { return m.Priority > s.Tiers[0].Priority })
	}
	slices.SortStableFunc(s.probes, func(a, b *Member) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, m := range s.probes {
		first = earlier(first, instant(m.Upstream.probeAt.Load()))
	}
	return first
}
