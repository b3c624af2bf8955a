package egress

// This file contains what policies would select, without a turn being taken.

// foreseer is a policy that can tell what Select would answer. The policies of others,
// and those for which it is a matter of chance or of turns, are none.
type foreseer interface {
	// foresee returns what Select would, and false where chance decides. It changes
	// nothing.
	foresee(s *Selection) (int, bool)
}

// foresee returns the member that a policy would select now, and false where that
// cannot be told. Of a single eligible member it always can.
func foresee(p SelectionPolicy, s *Selection) (int, bool) {
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
func (FirstSelection) foresee(s *Selection) (int, bool) {
	for i, m := range s.Members {
		if s.Eligible(i) {
			return i, factor(m) >= 1
		}
	}
	return -1, true
}

// foresee implements foreseer: hashing changes nothing.
func (p ClientIPHashSelection) foresee(s *Selection) (int, bool) { return p.Select(s), true }

// foresee implements foreseer: hashing changes nothing.
func (p UserHashSelection) foresee(s *Selection) (int, bool) { return p.Select(s), true }

// foresee implements foreseer: hashing changes nothing.
func (p DestinationHashSelection) foresee(s *Selection) (int, bool) { return p.Select(s), true }

// foresee implements foreseer: without a value it is the fallback's choice.
func (p *HeaderHashSelection) foresee(s *Selection) (int, bool) {
	if p.value(s.Request) == "" {
		return foresee(p.fallback, s)
	}
	return p.Select(s), true
}

// foresee implements foreseer: without a value it is the fallback's choice.
func (p *CookieHashSelection) foresee(s *Selection) (int, bool) {
	if cookieValue(s.Request.Header, p.Name) == "" {
		return foresee(p.fallback, s)
	}
	return p.Select(s), true
}

// foresee implements foreseer, but for ties.
func (LeastConnSelection) foresee(s *Selection) (int, bool) {
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
	_ foreseer = FirstSelection{}
	_ foreseer = ClientIPHashSelection{}
	_ foreseer = UserHashSelection{}
	_ foreseer = DestinationHashSelection{}
	_ foreseer = (*HeaderHashSelection)(nil)
	_ foreseer = (*CookieHashSelection)(nil)
	_ foreseer = LeastConnSelection{}
)
