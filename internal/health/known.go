package health

import (
	"slices"
	"sync/atomic"
	"time"
)

// known remembers destinations that an upstream has opened tunnels to with its credentials.
// Only these tell what a refusal means: credentials that were accepted for a destination, and
// are refused for it, may be wrong; a destination that was never reached may not be allowed.
// It is a set-associative table without a lock: two callers at once may lose one entry.
type known [maxKnown / knownPlaces]knownSet

type knownSet [knownPlaces]knownEntry

type knownEntry struct {
	destination atomic.Uint64
	at          atomic.Int64 // when it was reached, to within knownAgain
	network     atomic.Uint32
}

const (
	// maxKnown bounds them, in sets of knownPlaces.
	maxKnown    = 64
	knownPlaces = 4

	// knownFor is how long before the last success of the upstream a destination may have
	// been reached to be known still.
	knownFor = time.Hour

	// knownAgain is how often a destination that is reached all the time is noted.
	knownAgain = 30 * time.Second

	// knownKept is for how long a destination keeps its place from others.
	knownKept = time.Minute

	// knownOf is how many places of a set one network may have.
	knownOf = 2
)

func (k *known) set(destination uint64) *knownSet { return &k[destination%uint64(len(k))] }

func (s *knownSet) find(destination uint64) *knownEntry {
	for i := range s {
		if s[i].destination.Load() == destination {
			return &s[i]
		}
	}
	return nil
}

// note notes that a destination was reached, and reports whether it was known already, which
// costs a lookup.
func (k *known) note(now instant, destination uint64, c Client) (again bool) {
	set := k.set(destination)
	e := set.find(destination)
	if again = e != nil; !again {
		if e = set.place(now, c.network()); e == nil {
			return false
		}
	} else if now.sub(instant(e.at.Load())) < knownAgain {
		return true
	}
	e.destination.Store(destination)
	e.network.Store(c.network())
	e.at.Store(int64(now))
	return again
}

// place returns the entry that a new destination takes: that of the oldest, unless that was
// reached lately too, or the older one of those of its network, if that has its share. A
// flood of destinations pushes out none that are in use. nil: there is none.
func (s *knownSet) place(now instant, network uint32) *knownEntry {
	var oldest, own *knownEntry
	owned := 0
	for i := range s {
		e := &s[i]
		if oldest == nil || e.at.Load() < oldest.at.Load() {
			oldest = e
		}
		if network != 0 && e.network.Load() == network {
			if owned++; own == nil || e.at.Load() < own.at.Load() {
				own = e
			}
		}
	}
	if owned >= knownOf {
		oldest = own
	}
	if at := instant(oldest.at.Load()); at != 0 && now.sub(at) < knownKept {
		return nil
	}
	return oldest
}

// touch notes exactly when a known destination was reached.
func (k *known) touch(now instant, destination uint64) {
	if e := k.set(destination).find(destination); e != nil {
		e.at.Store(int64(now))
	}
}

func (k *known) forget(destination uint64) {
	if e := k.set(destination).find(destination); e != nil {
		e.destination.Store(0)
		e.at.Store(0)
		e.network.Store(0)
	}
}

// has reports whether a destination is known. last is when any was reached last.
func (k *known) has(last instant, destination uint64) bool {
	e := k.set(destination).find(destination)
	return destination != 0 && e != nil && last.sub(instant(e.at.Load())) <= knownFor
}

// hosts are those of the destinations that are known and were reached after some instant.
func (k *known) hosts(last, since instant) (hosts []uint64) {
	for i := range k {
		for j := range k[i] {
			e := &k[i][j]
			d, at := e.destination.Load(), instant(e.at.Load())
			if d != 0 && at > since && last.sub(at) <= knownFor && !slices.Contains(hosts, hostOf(d)) {
				hosts = append(hosts, hostOf(d))
			}
		}
	}
	return hosts
}

// isKnown reports whether a destination was reached with the credentials.
func (u *Upstream) isKnown(destination uint64) bool {
	return u.known.has(instant(u.reached.Load()), destination)
}

// knownHosts are those of the destinations that were, after some instant.
func (u *Upstream) knownHosts(since instant) []uint64 {
	return u.known.hosts(instant(u.reached.Load()), since)
}

// proven reports whether anything tells that the credentials have ever been right: a
// destination was reached, a login or a check that carried them accepted, or there are none.
func (u *Upstream) proven(o *Observation) bool {
	return o.Anonymous || u.accepted.Load() != 0 || u.reached.Load() != 0
}

// refuseKnown counts one of a destination that was reached before. It is no matter of the
// credentials while as many others are reached that were as well.
func (u *Upstream) refuseKnown(now instant, o *Observation) (enough bool) {
	r := &u.breaker.refused
	network := uint32(0)
	if o.ToldClient {
		network = o.Client.network()
		u.refusedTo.add(now, o.Client)
	}
	h, _ := r.host(now, o.Destination, network)
	h.told = o.ToldClient
	h.refuse(now, 1, knownPause)
	u.keepAway(h.until)
	if len(r.known) == 0 {
		r.knownFrom = now
	}
	if !slices.Contains(r.known, o.Destination) && len(r.known) < maxKnown {
		r.known = append(r.known, o.Destination)
	}
	refused, reached := u.knownSince()
	need, over := min(len(u.knownHosts(0)), knownRefused), knownRefusedFor
	if need <= 1 {
		over = aloneFor
	}
	switch refusedFor := now.sub(r.knownFrom); {
	case refused > reached:
		return refused >= need && refusedFor >= over && (!o.ToldClient || u.believes(now, u.refusedTo.networks(now, servedLately), o.Client))
	case refusedFor >= sitesAfter:
		u.forgetRefused(0)
	}
	return false
}

// knownSince is how many known hosts are refused, and how many others were reached since the
// first of these was.
func (u *Upstream) knownSince() (refused, reached int) {
	var hosts []uint64
	for _, d := range u.breaker.refused.known {
		if !slices.Contains(hosts, hostOf(d)) {
			hosts = append(hosts, hostOf(d))
		}
	}
	for _, host := range u.knownHosts(u.breaker.refused.knownFrom) {
		if !slices.Contains(hosts, host) {
			reached++
		}
	}
	return len(hosts), reached
}

// KnowsAny reports whether any destination is known, so that the credentials seem to be right.
func (u *Upstream) KnowsAny() bool { return len(u.knownHosts(0)) > 0 }

// Forbids reports whether the upstream means the destination where it refuses our credentials
// for it, as far as anything tells: they are good, since tunnels to others were opened with
// them within a minute, and it was never reached.
func (u *Upstream) Forbids(now time.Time, destination uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if destination == 0 || u.breaker.auth || u.isKnown(destination) {
		return false
	}
	if refused, reached := u.knownSince(); refused > 0 && refused > reached {
		return false
	}
	return len(u.knownHosts(instantOf(now).add(-servedBefore))) > 0
}

// forgetRefused makes known destinations that are refused unknown, unless one of these was
// reached: they are sites that are not allowed any more.
func (u *Upstream) forgetRefused(reached uint64) {
	r := &u.breaker.refused
	if !slices.Contains(r.known, reached) {
		for _, d := range r.known {
			u.known.forget(d)
		}
	}
	r.known = nil
}
