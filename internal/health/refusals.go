package health

import (
	"slices"
	"time"
)

// This file contains when refused credentials take an upstream out. With credentials that
// are wrong it serves nobody, and each attempt may lock the account. But a proxy may refuse a
// site with a 407 that is for some users only, and clients that ask for such sites must not
// take the upstream out for the others. What tells the one from the other is what was reached
// before: a refusal of a known destination says something of the credentials, and every other
// one of the destination. Who asks does not matter.

const (
	// authFaults is how many refusals in a row are enough where the destination has no part
	// in them: logins and checks. Where the credentials were right before, a directory may
	// have failed for a moment: it takes loginFor as well.
	authFaults = 3
	loginFor   = time.Second

	// So many hosts of known destinations are enough, or all if there are fewer, when they
	// are refused for knownRefusedFor. Where one is known, and where none is, it takes aloneFor.
	knownRefused    = 5
	knownRefusedFor = time.Second
	aloneFor        = 5 * time.Second

	// servedBefore is how long ago another member may have reached something, so that what is
	// refused may be a site.
	servedBefore = time.Minute

	// freshRefused is how many hosts are enough where no destination is known.
	freshRefused = 2

	// sitesAfter is how long known destinations are refused while as many others are reached
	// when it is clear that it is these sites.
	sitesAfter = 30 * time.Second

	// What was refused twice is kept away for so long, each time for longer, up to longestPause.
	knownPause   = 250 * time.Millisecond
	unknownPause = time.Second
	longestPause = 10 * time.Second

	// manyRefused is how many destinations that are not known are refused for a network of
	// clients, without a success of it, when further ones are kept away for longestPause.
	manyRefused = 10

	// doubtPause is how long all are kept away after each refusal, where nothing tells that
	// the credentials have ever been right, or where the destination has no part in it.
	doubtPause = 500 * time.Millisecond

	// refusedKept bounds the destinations and the networks that are remembered.
	refusedKept = 32

	// The operator is told of many refusals that prove nothing, not more often than this.
	tellAfter = 60
	tellAgain = 10 * time.Minute
)

// refusals are what is remembered of refused credentials.
type refusals struct {
	logins     int // refused in a row
	loginsFrom instant

	known     []uint64 // known destinations that are refused, since any of these was reached
	knownFrom instant

	hosts    []refusedHost
	networks []refusedNetwork
	from     instant // since then they count, where no destination is known
	all      instant // until then everybody is kept away

	slowing slowing
}

// refusedHost is a destination that was refused for a network of clients.
type refusedHost struct {
	destination uint64
	network     uint32  // 0: for all, since it is known
	n           int     // of those that came at the same time, one
	counts      bool    // no site, as far as others tell
	told        bool    // the upstream knows for whom: that others reach it says nothing
	from        instant // when it was refused first
	until       instant // until then it is kept away
}

// refusedNetwork is a network of clients for which destinations were refused.
type refusedNetwork struct {
	network uint32
	n       int
	until   instant // until then, what is not known is kept away
}

// host finds a destination, or adds it.
func (r *refusals) host(now instant, destination uint64, network uint32) (h *refusedHost, added bool) {
	i := slices.IndexFunc(r.hosts, func(h refusedHost) bool { return h.destination == destination && h.network == network })
	if added = i < 0; added {
		if len(r.hosts) == refusedKept { // of the oldest nothing is known any more
			r.hosts = slices.Delete(r.hosts, 0, 1)
		}
		i = len(r.hosts)
		r.hosts = append(r.hosts, refusedHost{destination: destination, network: network, from: now})
	}
	return &r.hosts[i], added
}

// refuse counts a refusal. From the one after quiet on, it keeps the destination away, from
// time to time for twice as long.
func (h *refusedHost) refuse(now instant, quiet int, pause time.Duration) {
	if now < h.until {
		return
	}
	if h.n++; h.n > quiet {
		h.until = now.add(min(pause<<min(h.n-quiet-1, 8), longestPause))
	}
}

// of finds a network, or adds it.
func (r *refusals) of(network uint32) *refusedNetwork {
	i := slices.IndexFunc(r.networks, func(n refusedNetwork) bool { return n.network == network })
	if i < 0 {
		if len(r.networks) == refusedKept {
			r.networks = slices.Delete(r.networks, 0, 1)
		}
		i = len(r.networks)
		r.networks = append(r.networks, refusedNetwork{network: network})
	}
	return &r.networks[i]
}

// counting is how many hosts are refused that count.
func (r *refusals) counting() int {
	var seen []uint64
	for _, h := range r.hosts {
		if h.counts && !slices.Contains(seen, hostOf(h.destination)) {
			seen = append(seen, hostOf(h.destination))
		}
	}
	return len(seen)
}

// reach forgets what a success has disproved: for whom it was, for what it was, and where
// that was refused as a known destination, all of these.
func (r *refusals) reach(o *Observation) {
	if slices.Contains(r.known, o.Destination) {
		r.known = nil
		r.hosts = slices.DeleteFunc(r.hosts, func(h refusedHost) bool { return h.network == 0 })
	}
	r.hosts = slices.DeleteFunc(r.hosts, func(h refusedHost) bool {
		return h.destination == o.Destination && o.Destination != 0 && (!h.told || h.network == o.Client.network())
	})
	r.networks = slices.DeleteFunc(r.networks, func(n refusedNetwork) bool { return n.network == o.Client.network() })
	for i := range r.hosts {
		r.hosts[i].counts = false
	}
	r.from = 0
}

// pending forgets what is over, and reports whether anything is left.
func (r *refusals) pending(now instant) bool {
	if r.from == 0 {
		r.hosts = slices.DeleteFunc(r.hosts, func(h refusedHost) bool { return now.sub(max(h.from, h.until)) > longestPause })
		if len(r.hosts) == 0 {
			r.networks = nil
		}
	}
	if now.sub(r.knownFrom) > knownFor {
		r.known = nil
	}
	return r.logins+len(r.known)+len(r.hosts)+len(r.networks) > 0 || r.slowing.pending(now)
}

// refuse records that the upstream has refused our credentials. Enough of that opens the
// circuit, whatever the group says.
func (u *Upstream) refuse(now instant, cfg *UpstreamConfig, o *Observation, probe bool) (Reason, Doubt) {
	u.dirty.Store(true)
	u.connect = false
	if u.breaker.auth {
		if probe {
			u.refuseProbe(now, cfg, o)
		}
		return "", NoDoubt
	}
	var enough bool
	doubt, tells := NoDoubt, true
	switch {
	case o.Destination == 0:
		enough = u.refuseLogin(now, o)
	case u.isKnown(o.Destination):
		enough = u.refuseKnown(now, o)
	default:
		enough, doubt = u.refuseUnknown(now, o)
		tells = len(u.knownHosts(0)) == 0
	}
	switch {
	case enough:
		u.breaker.auth = true
		u.open(now, cfg, true)
		u.leaveNext(o.Destination)
		return ReasonAuth, NoDoubt
	case probe && tells:
		u.open(now, cfg, false) // alive, but no proof that it serves
	case probe:
		u.leaveTurn(now, cfg)
	}
	return "", doubt
}

// refuseLogin counts one that has nothing to do with a destination.
func (u *Upstream) refuseLogin(now instant, o *Observation) (enough bool) {
	r := &u.breaker.refused
	if r.logins++; r.logins == 1 {
		r.loginsFrom = now
	}
	if r.logins < authFaults {
		return false
	}
	r.all = now.add(doubtPause)
	u.keepAway(r.all)
	return !u.proven(o) || now >= r.loginsFrom.add(loginFor)
}

// refuseUnknown counts one of a destination that was never reached. That keeps it away from
// the upstream for those who ask, and says nothing of the credentials where others are known.
func (u *Upstream) refuseUnknown(now instant, o *Observation) (enough bool, doubt Doubt) {
	u.dirty.Store(true)
	r := &u.breaker.refused
	h, added := r.host(now, o.Destination, o.Client.network())
	quiet := 1
	if o.Relayed { // it may be the origin's answer
		quiet = manyRefused
	}
	h.refuse(now, quiet, unknownPause)
	n := r.of(o.Client.network())
	if added {
		n.n++
	}
	if n.n >= manyRefused && o.Client != 0 {
		n.until = now.add(longestPause)
	}
	u.keepAway(max(h.until, n.until))
	slow := false
	if !o.Relayed {
		u.keepAway(r.slowing.refuse(now, o.Client.network(), o.Destination))
		slow = r.slowing.total.all(now, eachInAll)
		if len(u.knownHosts(0)) == 0 {
			enough = u.refuseFresh(now, o, h, n)
		}
	}
	u.untold++
	if slow && !enough && (r.slowing.told == 0 || now.sub(r.slowing.told) >= tellAgain) {
		u.untold, u.toldAt, r.slowing.told = 0, now, now
		return false, Slow
	}
	if (n.n >= manyRefused || u.untold >= tellAfter || u.untold >= manyRefused && u.reached.Load() == 0) &&
		!enough && (u.toldAt == 0 || now.sub(u.toldAt) >= tellAgain) {
		u.untold, u.toldAt, doubt = 0, now, Withheld
	}
	return enough, doubt
}

// refuseFresh counts one where no destination is known. What is refused while other members
// serve counts when that is reached through them: otherwise it may be a site. Where nothing
// tells that the credentials have ever been right, few attempts are made until that is clear.
func (u *Upstream) refuseFresh(now instant, o *Observation, h *refusedHost, n *refusedNetwork) (enough bool) {
	r := &u.breaker.refused
	if !o.Served {
		h.counts = true
	}
	hosts := r.counting()
	if hosts > 0 && r.from == 0 {
		r.from = now
	}
	decides := max(r.from, instant(u.reached.Load()), instant(u.accepted.Load())).add(aloneFor)
	if u.reached.Load() == 0 {
		u.keepAway(now.add(longestPause)) // so that further members are left alone
	}
	if !u.proven(o) {
		if n.n >= authFaults {
			n.until = max(n.until, decides)
		}
		if hosts >= freshRefused {
			r.all = now.add(doubtPause)
		}
		u.keepAway(max(n.until, r.all))
	}
	return hosts >= freshRefused && now >= decides
}

// accept forgets what a success has disproved. Called with mu held.
func (u *Upstream) accept(now instant, o *Observation) {
	r := &u.breaker.refused
	r.logins, r.all = 0, 0
	if !o.Reached {
		return
	}
	if len(r.known) > 0 {
		u.known.touch(now, o.Destination)
	}
	r.reach(o)
	if !o.again && !o.Absolute { // in absolute form a 407 does not count either
		r.slowing.reach(now, o.Client.network(), o.Destination)
	}
}

// logIn records that a login was accepted, whatever became of the request. Called with mu
// held.
func (u *Upstream) logIn(now instant, probe bool) Reason {
	if u.accepted.Load() == 0 {
		u.accepted.Store(int64(now))
	}
	u.breaker.refused.logins, u.breaker.refused.all = 0, 0
	if !u.breaker.auth || !probe {
		return ""
	}
	u.close(now)
	return ReasonProbePassed
}

// refusedHere counts what was refused here, where no destination is known, and was reached
// elsewhere: it is no site. Called with mu held.
func (u *Upstream) refusedHere(now instant, destination uint64) {
	r := &u.breaker.refused
	if u.breaker.auth || len(u.knownHosts(0)) > 0 {
		return
	}
	for i := range r.hosts {
		if h := &r.hosts[i]; h.destination == destination && !h.counts {
			h.counts = true
			if r.from == 0 {
				r.from = now
			}
		}
	}
}

// refuseProbe records that the credentials are refused again. Where destinations are known,
// that of another one is no news.
func (u *Upstream) refuseProbe(now instant, cfg *UpstreamConfig, o *Observation) {
	if o.Destination != 0 && !u.isKnown(o.Destination) && len(u.knownHosts(0)) > 0 {
		u.leaveTurn(now, cfg)
		return
	}
	u.open(now, cfg, true)
	u.breaker.refused.host(now, o.Destination, o.Client.network())
	u.leaveNext(o.Destination)
}

// leaveNext leaves the probe of the next period to destinations that tell most, unless what
// was refused had nothing to do with one.
func (u *Upstream) leaveNext(destination uint64) {
	if destination != 0 {
		u.leaveProbe(u.breaker.until.add(leaveTo))
	}
}

// leaveTurn ends a probe that says nothing of the credentials. The period neither ends nor
// grows: a request for a known destination is the next probe at once, any other one later.
func (u *Upstream) leaveTurn(now instant, cfg *UpstreamConfig) {
	u.openFor(now, cfg, 0)
	u.leaveProbe(now.add(leaveTo))
}

// leaveProbe leaves the probe to requests for known destinations until then, or, where there
// are none, to those for destinations that were not refused.
func (u *Upstream) leaveProbe(until instant) {
	if u.breaker.auth {
		u.breaker.leftUntil = until
		u.keepAway(until)
	}
}

// leaves reports whether a destination leaves the probe to others.
func (u *Upstream) leaves(now instant, destination uint64) bool {
	switch b := &u.breaker; {
	case now >= b.leftUntil || u.isKnown(destination):
		return false
	case len(u.knownHosts(0)) > 0:
		return true
	default:
		return slices.ContainsFunc(b.refused.hosts, func(h refusedHost) bool { return h.destination == destination })
	}
}
