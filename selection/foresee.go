package selection

// This file contains what policies would select, without a turn being taken.

// foreseer is a policy that can tell what Select would answer. The policies of others,
// and those for which it is a matter of chance or of turns, are none.
type foreseer interface {
	// foresee returns what Select would, and false where chance decides. It changes
	// nothing.
	foresee(s *Choice) (int, bool)
}

// Foresee returns the member that a policy would select now, and false where that
// cannot be told. Of a single eligible member it always can.
func Foresee(p Policy, s *Choice) (int, bool) {
	only, eligible := -1, 0
	for i := range s.Members {
		if s.Eligible(i) {
			only, eligible = i, eligible+1
		}
	}
	if eligible <= 1 {
		return only, true
	}
	if f, ok := p.(foreseer); ok {
		return f.foresee(s)
	}
	return -1, false
}

// foresee implements foreseer: the first takes all unless it has but a share.
func (First) foresee(s *Choice) (int, bool) {
	for i, m := range s.Members {
		if s.Eligible(i) {
			return i, factor(m) >= 1
		}
	}
	return -1, true
}

// foresee implements foreseer: hashing changes nothing.
func (p ClientIPHash) foresee(s *Choice) (int, bool) { return p.Select(s), true }

// foresee implements foreseer: hashing changes nothing.
func (p UserHash) foresee(s *Choice) (int, bool) { return p.Select(s), true }

// foresee implements foreseer: hashing changes nothing.
func (p DestinationHash) foresee(s *Choice) (int, bool) { return p.Select(s), true }

// foresee implements foreseer: without a value it is the fallback's choice.
func (p *HeaderHash) foresee(s *Choice) (int, bool) {
	if p.Hashed(s.Request) == "" {
		return Foresee(p.fallback, s)
	}
	return p.Select(s), true
}

// foresee implements foreseer: without a value it is the fallback's choice.
func (p *CookieHash) foresee(s *Choice) (int, bool) {
	if cookieValue(s.Request.Header, p.Name) == "" {
		return Foresee(p.fallback, s)
	}
	return p.Select(s), true
}

// foresee implements foreseer, but for ties.
func (LeastConn) foresee(s *Choice) (int, bool) {
	best, tied, least := -1, false, 0.0
	for i, m := range s.Members {
		if !s.Eligible(i) {
			continue
		}
		switch load := float64(m.InFlight()) / share(m); {
		case best < 0 || load < least:
			best, tied, least = i, false, load
		case load == least:
			tied = true
		}
	}
	return best, !tied
}

// Interface guards
var (
	_ foreseer = First{}
	_ foreseer = ClientIPHash{}
	_ foreseer = UserHash{}
	_ foreseer = DestinationHash{}
	_ foreseer = (*HeaderHash)(nil)
	_ foreseer = (*CookieHash)(nil)
	_ foreseer = LeastConn{}
)
