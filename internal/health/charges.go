package health

import (
	"slices"
	"time"
)

// charge is what an upstream was charged with of what may be the doing of one host.
type charge struct {
	host uint64
	n    int     // since the circuit closed last
	row  int     // of them, those since the last success
	at   instant // the last time
}

// charges remembers them, so that one host alone takes no upstream out: the oldest first.
type charges []charge

// find returns the index of the charge of a host that is not older than window, or -1.
func (c *charges) find(now instant, window time.Duration, host uint64) int {
	old := 0
	for old < len(*c) && now.sub((*c)[old].at) > window {
		old++
	}
	*c = slices.Delete(*c, 0, old)
	return slices.IndexFunc(*c, func(k charge) bool { return k.host == host })
}

// add counts n more for a host. Of more hosts than can be remembered, the oldest is
// forgotten.
func (c *charges) add(now instant, window time.Duration, host uint64, n int) {
	next := charge{host: host, n: n, row: n, at: now}
	if i := c.find(now, window, host); i >= 0 {
		next.n, next.row = next.n+(*c)[i].n, next.row+(*c)[i].row
		*c = slices.Delete(*c, i, i+1)
	} else if len(*c) == maxSoftFails {
		*c = slices.Delete(*c, 0, 1)
	}
	*c = append(*c, next)
}

// take forgets the charge of a host and returns what it was.
func (c *charges) take(now instant, window time.Duration, host uint64) (k charge) {
	if i := c.find(now, window, host); i >= 0 {
		k = (*c)[i]
		*c = slices.Delete(*c, i, i+1)
	}
	return k
}

// forgiven notes that a success has forgiven the failures in a row, and where the circuit
// has closed, all of them. That the hosts were charged is remembered all the same.
func (c charges) forgiven(closed bool) {
	for i := range c {
		c[i].row = 0
		if closed {
			c[i].n = 0
		}
	}
}

// charge reports whether a failure that may be the destination's is to be charged to the
// upstream, and remembers it: of one that has answered others, one for a host within the
// window.
func (u *Upstream) charge(now instant, window time.Duration, destination uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	host := hostOf(destination)
	if u.answeredWithin(now, window) && u.charged.find(now, window, host) >= 0 {
		return false
	}
	u.charged.add(now, window, host, 1)
	return true
}

// withhold remembers a failure for a destination that fails through several members, of
// one that has answered nothing. It is charged after all if the destination is reached
// through another one before this one answers. It is false where that is so of many
// hosts: then it is the upstream.
func (u *Upstream) withhold(now instant, window time.Duration, destination uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dirty.Store(true)
	u.withheld.add(now, window, hostOf(destination), 1)
	return len(u.withheld) < suspects
}

// isOwn reports whether what fails here for a destination is known to be the upstream's
// own doing: others have reached it, and this one answers nothing.
func (u *Upstream) isOwn(now instant, window time.Duration, destination uint64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.own.find(now, window, hostOf(destination)) >= 0
}

// chargeWithheld charges what was withheld of a destination that was reached through
// another member. What fails for that host through one that answers nothing is its own
// doing from then on, and so is what it was charged with. Called with mu held.
func (u *Upstream) chargeWithheld(now instant, cfg *UpstreamConfig, destination uint64) Reason {
	host := hostOf(destination)
	n := u.withheld.take(now, cfg.Window, host).n
	if !u.answeredWithin(now, cfg.Window) && n+u.charged.take(now, cfg.Window, host).n > 0 {
		u.own.add(now, cfg.Window, host, 1)
		if u.breaker.openedBy == host {
			u.breaker.openedBy = 0
		}
	}
	if n == 0 || u.breaker.state != Closed {
		return ""
	}
	u.breaker.failures += n
	for range n {
		u.window.add(now, cfg.Window, false)
	}
	passed, failed := u.window.counts(now, cfg.Window)
	if reason := u.breaker.wantsOpen(passed, failed, cfg); reason != "" {
		return u.eject(now, cfg, reason)
	}
	return ""
}

// forgive takes all charges of the host of a destination back, since they turned out to
// be that one's: they are suspicion, no more, of the client that has brought it to light. A circuit that would not have opened without
// them closes.
func (u *Upstream) forgive(now instant, cfg *UpstreamConfig, destination uint64, client Client) Transition {
	return u.step(now, func() Reason {
		host := hostOf(destination)
		k := u.charged.take(now, cfg.Window, host)
		if k.n == 0 {
			return ""
		}
		u.window.takeBack(now, cfg.Window, k.n)
		if !u.answeredWithin(now, cfg.Window) {
			u.withheld.add(now, cfg.Window, host, k.n)
		}
		u.dirty.Store(true)
		u.suspicion.add(now, destination, client)
		switch b := &u.breaker; {
		case b.state == Closed:
			b.failures = max(b.failures-k.row, 0)
			if passed, failed := u.window.counts(now, cfg.Window); b.spared && b.wantsOpen(passed, failed, cfg) == "" {
				b.spared = false
			}
		case b.openedBy == host && !b.auth:
			b.openings-- // it was none
			b.close(now)
			return ReasonDestination
		}
		return ""
	})
}

// openedBy returns the host whose charges open the circuit that would not open without
// them; 0: none. Called with mu held.
func (u *Upstream) openedBy(now instant, cfg *UpstreamConfig) uint64 {
	passed, failed := u.window.counts(now, cfg.Window)
	for _, k := range u.charged {
		without := u.breaker
		without.failures = max(without.failures-k.row, 0)
		if now.sub(k.at) <= cfg.Window && without.wantsOpen(passed, max(failed-k.n, 0), cfg) == "" {
			return k.host
		}
	}
	return 0
}
