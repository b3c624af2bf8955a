package health

import (
	"cmp"
	"slices"
)

// Snapshot is who may be picked, as of one moment. It is immutable.
type Snapshot struct {
	// Tiers holds the members that may be picked, in the order in which tiers are
	// to be used: by priority, but those that panic alone filled come after all
	// others, and the last resort after these. No tier is empty.
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
	Priority int       // that of each member
	Members  []*Member // at least one

	// Panic: all of them are ejected, and here because of panic.
	Panic bool

	// LastResort: all of them fail, and nobody better may be picked in their tier:
	// they should be ejected, and may not, or are, and nobody in rotation is better.
	LastResort bool
}

// candidate is a member that may be picked, or may be in panic.
type candidate struct {
	m       *Member
	ejected bool
}

// survey makes a snapshot of members that are ordered by priority. probeAt is the
// instant from which a probe may be due; 0: none.
func survey(now instant, cfg *UpstreamConfig, members []*Member) (s *Snapshot, probeAt instant) {
	s = new(Snapshot)
	cands := make([]candidate, 0, len(members))
	var spared []candidate
	var out []*Member // of the probes, those that are not in rotation
	for _, m := range members {
		st := m.Upstream.Status()
		if st.Admin == Ready {
			s.Ready++
		}
		switch {
		case st.InRotation() && st.Spared:
			s.InRotation++
			spared = append(spared, candidate{m: m})
			s.probes = append(s.probes, m)
		case st.InRotation():
			s.InRotation++
			cands = append(cands, candidate{m: m})
		case st.probeable():
			s.probes, out = append(s.probes, m), append(out, m)
			if st.ejected() {
				cands = append(cands, candidate{m, true})
			}
		}
	}
	s.Panic = float64(s.InRotation) < cfg.PanicBelow*float64(s.Ready)-rounding
	nobody := s.InRotation == len(spared) // that serves, as far as is known
	good := cands
	if s.Panic {
		good = s.withoutFailing(now, cfg, cands)
	}
	switch {
	case s.Panic && len(good) > 0:
		cands = good
	case nobody && !s.Panic, s.Panic && len(spared) > 0: // nobody is better than another
		spared = append(spared, cands...)
		slices.SortStableFunc(spared, func(a, b candidate) int { return cmp.Compare(a.m.Priority, b.m.Priority) })
		cands = nil
	case !s.Panic:
		cands = slices.DeleteFunc(cands, func(c candidate) bool { return c.ejected })
	}
	s.arrange(cands, false)
	if len(s.Tiers) == 0 { // every request is a trial
		s.probes = out
	}
	s.arrange(spared, true)
	return s, s.arrangeProbes()
}

// withoutFailing drops those whose last connect or check failed. One that is in rotation is dropped for a failed connect only for as long as
// a circuit would open: nothing else would ever try it again.
func (s *Snapshot) withoutFailing(now instant, cfg *UpstreamConfig, cands []candidate) []candidate {
	good := make([]candidate, 0, len(cands))
	for _, c := range cands {
		st := c.m.Upstream.Status()
		until := instant(c.m.Upstream.failedAt.Load()).add(cfg.OpenFor)
		switch {
		case !st.ConnectFailed && !st.CheckFailed:
			good = append(good, c)
		case c.ejected || st.CheckFailed:
		case now < until:
			s.expires = earlier(s.expires, until)
		default:
			good = append(good, c)
		}
	}
	return good
}

// arrange adds tiers; the candidates are ordered by priority.
func (s *Snapshot) arrange(cands []candidate, lastResort bool) {
	first := len(s.Tiers)
	all := make([]*Member, len(cands))
	for i, c := range cands {
		all[i] = c.m
	}
	for from, to := 0, 0; from < len(cands); from = to {
		tier := Tier{Priority: cands[from].m.Priority, Panic: !lastResort, LastResort: lastResort}
		for ; to < len(cands) && cands[to].m.Priority == tier.Priority; to++ {
			tier.Panic = tier.Panic && cands[to].ejected
		}
		tier.Members = all[from:to:to]
		s.Tiers = append(s.Tiers, tier)
	}
	slices.SortStableFunc(s.Tiers[first:], func(a, b Tier) int {
		switch {
		case a.Panic == b.Panic:
			return 0
		case a.Panic:
			return 1
		}
		return -1
	})
}

// arrangeProbes drops the members to probe whose tier is not in use: a standby tier
// gets no request while the tiers before it serve. It returns when the first of the
// others is due.
func (s *Snapshot) arrangeProbes() (first instant) {
	if len(s.Tiers) > 0 && !s.Tiers[0].Panic && !s.Tiers[0].LastResort {
		s.probes = slices.DeleteFunc(s.probes, func(m *Member) bool { return m.Priority > s.Tiers[0].Priority })
	}
	for _, m := range s.probes {
		first = earlier(first, instant(m.Upstream.probeAt.Load()))
	}
	return first
}
