package health

import (
	"cmp"
	"slices"
	"time"
)

// This file contains how often an upstream is asked that refuses much which it has never
// reached, where nothing tells whether the credentials are wrong. That convicts nobody, but
// while others serve, they are asked instead.

const (
	// slowAfter is how many such refusals in a minute are enough. Of one network of clients
	// fewer are counted, and of one host: neither slows an upstream down for all.
	slowAfter   = 60
	slowNetwork = slowAfter / manyClients
	slowHost    = knownRefused

	// slowDebt is how much may be spent in advance, by requests that were under way together.
	slowDebt = longestPause
)

// spent is what is spent of so many in a minute: the instant at which that is forgotten. The
// time of each is a minute by their number.
type spent instant

// all of a minute is spent where not one more fits.
func (s spent) all(now instant, each time.Duration) bool { return s.until(each) > now }

// until is the instant from which one more fits.
func (s spent) until(each time.Duration) instant { return instant(s).add(each - time.Minute) }

// much reports whether half of a minute is spent.
func (s spent) much(now instant) bool { return instant(s).sub(now) > time.Minute/2 }

func (s *spent) spend(now instant, each time.Duration) {
	*s = spent(min(max(instant(*s), now).add(each), now.add(time.Minute+slowDebt)))
}

// giveBack takes one back, so that at least one more fits.
func (s *spent) giveBack(now instant, each time.Duration) {
	if instant(*s) > now {
		*s = spent(min(instant(*s), now.add(time.Minute)).add(-each))
	}
}

// spentBy is what is spent by each of refusedKept at most.
type spentBy []spender

type spender struct {
	who uint64 // the hash of a network or a host
	spent
}

func (s spentBy) find(who uint64) int {
	return slices.IndexFunc(s, func(e spender) bool { return e.who == who })
}

// of finds one, or adds it. Where there are too many, the one that has spent least is forgotten.
func (s *spentBy) of(now instant, who uint64) *spent {
	i := s.find(who)
	if i < 0 {
		*s = slices.DeleteFunc(*s, func(e spender) bool { return instant(e.spent) <= now })
		if i = len(*s); i < refusedKept {
			*s = append(*s, spender{})
		} else {
			i = slices.Index(*s, slices.MinFunc(*s, func(a, b spender) int { return cmp.Compare(a.spent, b.spent) }))
		}
		(*s)[i] = spender{who: who}
	}
	return &(*s)[i].spent
}

// all reports whether one has spent all.
func (s spentBy) all(now instant, who uint64, each time.Duration) bool {
	i := s.find(who)
	return i >= 0 && s[i].spent.all(now, each)
}

// slowing counts the refusals.
type slowing struct {
	total           spent
	networks, hosts spentBy
	slow            bool    // all was spent for all, and nothing has been reached since
	asked           instant // when something was asked last that may be refused, since slow
	told            instant // when the operator was told
}

const (
	eachInAll     = time.Minute / slowAfter
	eachOfNetwork = time.Minute / slowNetwork
	eachOfHost    = time.Minute / slowHost
)

// refuse counts one, and returns the instant until which anybody is to ask others, if that
// is not over. What is too much of a host counts no more for the network, and what is too
// much of either not for all.
func (s *slowing) refuse(now instant, network uint32, destination uint64) (until instant) {
	host, of := s.hosts.of(now, hostOf(destination)), s.networks.of(now, uint64(network))
	fits := !host.all(now, eachOfHost)
	host.spend(now, eachOfHost)
	until = host.until(eachOfHost)
	if fits {
		fits = !of.all(now, eachOfNetwork)
		of.spend(now, eachOfNetwork)
		until = max(until, of.until(eachOfNetwork))
	}
	if fits {
		s.total.spend(now, eachInAll)
		s.slow = s.slow || s.total.all(now, eachInAll)
		if until = max(until, s.total.until(eachInAll)); s.slow {
			until = max(until, instant(s.total)) // so that those who ask are noted
		}
	}
	return until
}

// reach takes one back for a destination that was not reached before. Its host is not
// refused any more.
func (s *slowing) reach(now instant, network uint32, destination uint64) {
	s.hosts = slices.DeleteFunc(s.hosts, func(e spender) bool { return e.who == hostOf(destination) })
	if i := s.networks.find(uint64(network)); i >= 0 {
		s.networks[i].giveBack(now, eachOfNetwork)
	}
	s.total.giveBack(now, eachInAll)
	s.slow, s.asked = false, 0
}

// pending reports whether anything is spent that could be given back. That of which little is
// spent is not worth the look.
func (s *slowing) pending(now instant) bool {
	much := func(e spender) bool { return e.much(now) }
	return s.total.much(now) || slices.ContainsFunc(s.networks, much) || slices.ContainsFunc(s.hosts, much)
}

// over reports whether others are to be asked for a destination of a client of a network.
func (s *slowing) over(now instant, network uint32, destination uint64) bool {
	return s.total.all(now, eachInAll) || s.slow && s.asked != 0 && now.sub(s.asked) < eachInAll || s.networks.all(now, uint64(network), eachOfNetwork) || s.hosts.all(now, hostOf(destination), eachOfHost)
}

// slows reports whether others are to be asked for what a client wants.
func (u *Upstream) slows(now instant, c Client, destination uint64) bool {
	if uint64(now) >= u.keepsUntil.Load() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.breaker.auth && !u.isKnown(destination) && u.breaker.refused.slowing.over(now, c.network(), destination)
}

// Asks notes that the upstream is asked for a destination. Until a second is over, or that has
// an answer, others are asked for what is not known, where it refuses much: what is under way
// counts as well.
func (u *Upstream) Asks(now time.Time, destination uint64) {
	t := instantOf(now)
	if uint64(t) >= u.keepsUntil.Load() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if s := &u.breaker.refused.slowing; s.slow && !u.isKnown(destination) {
		s.asked = t
	}
}
