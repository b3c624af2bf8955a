package health

import (
	"slices"
	"sync/atomic"
	"time"
)

// This file contains who is kept away from an upstream that refuses our credentials, while
// it is not clear whether they are wrong.

// AnyKeptAway reports whether KeepsAway can be true of any upstream.
func AnyKeptAway(now time.Time) bool { return uint64(instantOf(now)) < anyKeptAway.Load() }

// anyKeptAway is the instant until which anybody is kept away from any upstream of the
// process, so that requests need not look at each while nobody is.
var anyKeptAway atomic.Uint64

// keepAway notes that somebody is kept away until then.
func (u *Upstream) keepAway(until instant) {
	for _, at := range [...]*atomic.Uint64{&u.keepsUntil, &anyKeptAway} {
		for latest := at.Load(); latest < uint64(until) && !at.CompareAndSwap(latest, uint64(until)); {
			latest = at.Load()
		}
	}
}

// Kept is why a request is to pass an upstream over.
type Kept uint8

// The reasons.
const (
	NotKept    Kept = iota
	KeptHost        // our credentials were refused for its destination just now
	KeptClient      // they were refused for much that its client has asked for, or for all
	KeptSlow        // they were refused for much of late, and others serve: these are to be asked first
)

// KeepsAway tells whether a request of a client for a destination is to pass the upstream
// over: that has refused our credentials, and whether they are wrong is not clear.
func (u *Upstream) KeepsAway(now time.Time, c Client, destination uint64) Kept {
	t := instantOf(now)
	if uint64(t) >= u.keepsUntil.Load() {
		return NotKept
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	r, network, isKnown := &u.breaker.refused, c.network(), u.isKnown(destination)
	switch {
	case u.breaker.auth:
		if u.leaves(t, destination) {
			return KeptHost
		}
	case slices.ContainsFunc(r.hosts, func(h refusedHost) bool {
		return h.destination == destination && t < h.until && (h.network == 0 && isKnown || h.network == network)
	}):
		return KeptHost
	case t < r.all, !isKnown && r.keepsNetwork(t, network):
		return KeptClient
	}
	return NotKept
}

// refuses reports whether the upstream has refused a destination, not long ago for the first
// time, or keeps the network of a client away.
func (u *Upstream) refuses(now instant, network uint32, destination uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.breaker.refused
	return !u.breaker.auth && r.keepsNetwork(now, network) || slices.ContainsFunc(r.hosts, func(h refusedHost) bool {
		return h.destination == destination && now.sub(h.from) < longestPause
	})
}

func (r *refusals) keepsNetwork(now instant, network uint32) bool {
	return slices.ContainsFunc(r.networks, func(n refusedNetwork) bool { return n.network == network && now < n.until })
}

// Keeping returns what tells whether a request of a client for a destination is to pass a
// member over (see [Upstream.KeepsAway]). A member whose credentials have
// proved nothing is not tried for what two others have just refused, nor for a client that two
// others keep away: that one would take one after the other out. KeptSlow is of a member beside
// which there is one in rotation that keeps nothing away.
func (g *Group) Keeping(now time.Time, c Client, destination uint64) func(*Member) Kept {
	t, refusing := instantOf(now), 0
	for _, m := range g.Members() {
		if uint64(t) < m.Upstream.keepsUntil.Load() && m.Upstream.refuses(t, c.network(), destination) {
			refusing++
		}
	}
	keeps := func(m *Member) Kept {
		if refusing > 1 && m.Upstream.reached.Load() == 0 && !m.Upstream.refuses(t, c.network(), destination) {
			return KeptHost
		}
		if kept := m.Upstream.KeepsAway(now, c, destination); kept != NotKept || !m.Upstream.slows(t, c, destination) {
			return kept
		}
		return KeptSlow
	}
	return func(m *Member) Kept {
		kept := keeps(m)
		if kept == KeptSlow && !g.hasAnother(m, func(other *Member) bool { return keeps(other) == NotKept }) {
			return NotKept
		}
		return kept
	}
}

// hasAnother reports whether there is another member that serves, and takes something.
func (g *Group) hasAnother(m *Member, takes func(*Member) bool) bool {
	return slices.ContainsFunc(g.Members(), func(other *Member) bool {
		s := other.Upstream.Status()
		return other != m && s.InRotation() && !s.Spared && takes(other)
	})
}
