package selection

import "math"

// This file contains weighted rendezvous hashing with bounded load. It depends
// on nothing but the key and the members, so that a key stays where it is over
// reloads, and is in the same place in every process.

const (
	// A member that would have more than this multiple of its fair share in
	// flight passes what comes to the next in line of its key.
	loadBound = 1.25

	// So many in flight are never too many: without it, one busy client
	// would be spread over a group that is idle but for that client.
	alwaysWithinBound = 32
)

// fnvOffset is where stableHash begins.
const fnvOffset = 14695981039346656037

// stableHash adds s to a hash (FNV-1a). It is the same in every process.
func stableHash(hash uint64, s string) uint64 {
	for i := range len(s) {
		hash = (hash ^ uint64(s[i])) * 1099511628211
	}
	return hash
}

// mix spreads every bit of x over all bits (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// rendezvous returns the index of the member that is the place of a key, or -1
// if none is eligible. A key moves only if its own member goes, or to a member
// that comes. A member in slow start or overload has fewer keys, some of those
// it will have: no key moves twice on the way.
func rendezvous(s *Choice, key uint64) int {
	best := nearest(s, key, math.Inf(1))
	if best < 0 || withinBound(s.Members[best], 0) {
		return best
	}
	inFlight, shares := 1.0, 0.0 // one to come
	for i, m := range s.Members {
		if s.Eligible(i) {
			inFlight += float64(m.InFlight())
			shares += share(m)
		}
	}
	bound := loadBound * inFlight / shares
	if withinBound(s.Members[best], bound) {
		return best
	}
	if next := nearest(s, key, bound); next >= 0 {
		return next
	}
	return best
}

// withinBound reports whether one more may go to a member, when so many may be
// in flight for every unit of its share.
func withinBound(m Member, bound float64) bool {
	n := m.InFlight() + 1
	return n <= alwaysWithinBound || float64(n) <= bound*share(m)
}

// nearest returns the index of the eligible member within the bound that is
// nearest to a key, or -1. The distance of a member is a variate of the
// exponential distribution with its share as rate, so that the probability to be
// nearest is in proportion to the share. The variate before it is divided by the
// share depends on nothing but key and member.
func nearest(s *Choice, key uint64, bound float64) int {
	best, distance := -1, math.Inf(1)
	for i, m := range s.Members {
		if !s.Eligible(i) || !math.IsInf(bound, 1) && !withinBound(m, bound) {
			continue
		}
		share := share(m)
		u := (float64(mix(key^mix(m.Key()))>>11) + 0.5) / (1 << 53)
		// -log(1-u) ≥ u: most members are out without a logarithm.
		if best >= 0 && u >= distance*share {
			continue
		}
		if d := -math.Log1p(-u) / share; best < 0 || d < distance {
			best, distance = i, d
		}
	}
	return best
}
