package health

import (
	"cmp"
	"time"
)

const (
	leastOverload = time.Second

	// unansweredAgain is how long after a check was asked for because of an
	// unanswered request none is asked for again.
	unansweredAgain = time.Second
)

// Observe records how a request through the upstream ended. Members of a group are
// observed through [Group.Observe].
func (u *Upstream) Observe(now time.Time, cfg *UpstreamConfig, o Observation) (Transition, Doubt) {
	t := instantOf(now)
	u.observeLatency(t, &o)
	if o.Kind == Success {
		u.answered.Store(int64(t))
		if o.Reached {
			u.reached.Store(int64(t))
			u.served.add(t, o.Client)
			if o.Destination != 0 && !o.Absolute {
				o.again = u.known.note(t, o.Destination, o.Client)
			}
		}
		if o.LoggedIn && u.accepted.Load() == 0 {
			u.accepted.Store(int64(t))
		}
		u.window.add(t, cfg.Window, true)
		if o.Probe == 0 && !u.dirty.Load() && !o.Named {
			return Transition{}, NoDoubt
		}
	}
	return u.observe(t, cfg, o)
}

func (u *Upstream) observe(t instant, cfg *UpstreamConfig, o Observation) (tr Transition, doubt Doubt) {
	tr = u.step(t, func() (reason Reason) {
		probe := u.breaker.awaits(o.Probe)
		if o.LoggedIn && o.Kind != Success {
			reason = u.logIn(t, probe)
		}
		if o.Refused {
			_, doubt = u.refuseUnknown(t, &o)
		}
		switch o.Kind {
		case Success:
			if !o.Named {
				reason = u.succeed(t, cfg, &o, probe)
			} else {
				reason, doubt = u.name(t, cfg, o, probe)
			}
		case Failure, ConnectFailure:
			reason = u.fail(t, cfg, &o, probe)
		case AuthFault:
			reason, doubt = u.refuse(t, cfg, &o, probe)
		case Overload:
			reason = u.overloaded(t, cfg, o.RetryAfter, probe)
		case SoftFail, ReplyTimeout:
			r, d := u.softFail(t, cfg, o, u.breaker.holds(o.Probe))
			reason, doubt = cmp.Or(r, reason), max(d, doubt)
		default:
			u.unsettled(t, cfg, &o, u.breaker.holds(o.Probe))
		}
		if probe {
			u.leaveToOthers(t, &o)
		}
		return reason
	})
	return tr, doubt
}

// succeed forgives what is pending. While the circuit is open, only the
// probe closes it: a late success is of a request that began before, and where
// half of them succeed one success proves nothing. One that has not reached anything, such as
// a 403, says nothing of the uplink, and need not have looked at the credentials.
func (u *Upstream) succeed(now instant, cfg *UpstreamConfig, o *Observation, probe bool) Reason {
	b := &u.breaker
	u.connect = false
	u.asked = 0
	if o.Reached {
		u.suspicion.clear()
		u.withheld, u.own = u.withheld[:0], u.own[:0]
	}
	accepted := o.Reached || o.LoggedIn
	if accepted && !b.auth {
		u.accept(now, o)
	}
	u.dirty.Store(len(u.suspicion.fails)+len(u.withheld)+len(u.own) > 0 || b.refused.pending(now))
	switch {
	case b.auth && probe && !accepted:
		u.leaveTurn(now, cfg)
		return ""
	case b.auth && !probe, b.doubted && !o.Reached && (probe || b.spared):
		if probe {
			u.openAgain(now, cfg)
		}
		return ""
	case !probe:
		b.failures = 0
		u.charged.forgiven(false)
		u.endSpared(now)
		return ""
	}
	refused := b.refused
	if b.auth {
		u.forgetRefused(o.Destination)
		refused = refusals{}
	}
	u.close(now)
	b.refused = refused
	return ReasonProbePassed
}

// name records an answer that says that the destination cannot be reached. The upstream has
// done its job, unless it says so of others as well which are reached elsewhere. One that
// is out for that, or should be, is not brought back by saying it again. One that has
// reached a destination lately has no dead uplink, whatever one site makes it say of hosts
// that are for others only; and what an origin may have written proves nothing.
func (u *Upstream) name(now instant, cfg *UpstreamConfig, o Observation, probe bool) (Reason, Doubt) {
	if u.breaker.doubted && (probe || u.breaker.spared) {
		return u.softFail(now, cfg, o, u.breaker.holds(o.Probe))
	}
	reason := u.succeed(now, cfg, &o, probe)
	if o.Relayed || u.reachedWithin(now, suspicionWindow) || reason != "" || u.breaker.state != Closed {
		return reason, NoDoubt
	}
	return u.suspect(now, cfg, o)
}

// reachedWithin reports whether the upstream has reached a destination not longer ago.
func (u *Upstream) reachedWithin(now instant, d time.Duration) bool {
	at := instant(u.reached.Load())
	return at != 0 && now.sub(at) <= d
}

func (u *Upstream) fail(now instant, cfg *UpstreamConfig, o *Observation, probe bool) Reason {
	connect := o.Kind == ConnectFailure
	u.dirty.Store(true)
	if connect && (!u.connect || now >= instant(u.failedAt.Load()).add(cfg.OpenFor)) {
		u.failedAt.Store(int64(now)) // an edge for panic, which counts from here
	}
	u.connect = connect // a failure after the connect: that one succeeded
	switch {
	case probe:
		if connect {
			u.breaker.openedBy = 0
		}
		oldest := u.breaker.oldest
		u.open(now, cfg, u.groupServes())
		if o.Relayed {
			u.breaker.keepOther(oldest)
		}
		return ""
	case u.breaker.state != Closed:
		return "" // of a request that began before, or in panic
	}
	u.window.add(now, cfg.Window, false)
	u.breaker.failures++
	passed, failed := u.window.counts(now, cfg.Window)
	if reason := u.breaker.wantsOpen(passed, failed, cfg); reason != "" {
		by := u.openedBy(now, cfg)
		if reason = u.eject(now, cfg, reason); reason != "" {
			u.breaker.openedBy = by
		}
		return reason
	}
	return ""
}

// overloaded takes weight away. The upstream answered for itself: a probe has
// passed. But it need not have looked at the credentials: where those were refused, that
// proves nothing.
func (u *Upstream) overloaded(now instant, cfg *UpstreamConfig, retryAfter time.Duration, probe bool) Reason {
	u.connect = false
	d := min(max(retryAfter, leastOverload), max(cfg.MaxOpenFor, leastOverload))
	if until := now.add(d); until > instant(u.overload.Load()) {
		u.overload.Store(int64(until))
	}
	b := &u.breaker
	switch {
	case !probe:
		u.endSpared(now)
		return ""
	case b.auth:
		u.openAgain(now, cfg)
		b.until = max(b.until, now.add(d))
		return ""
	}
	refused := b.refused
	u.close(now)
	b.refused = refused
	return ReasonProbePassed
}

// unsettled records the end of a request that says nothing. A probe has waited for
// nothing then. One whose client went away keeps the circuit open for as long as it has
// waited, times the number of such probes in a row, up to OpenFor: clients that leave at
// once must not keep the upstream out for the others, and one that hangs must not get them
// one after the other.
func (u *Upstream) unsettled(now instant, cfg *UpstreamConfig, o *Observation, probe bool) {
	switch {
	case !probe:
	case u.breaker.state != HalfOpen:
		u.breaker.settle() // its time was over before
	case o.Kind == Neutral && o.Unsent:
		u.openFor(now, cfg, 0)
	case o.Kind == Cancelled && !o.Overtaken && !u.breaker.auth: // more attempts may lock the account
		waited, left := u.breaker.waited(now), u.breaker.left+1
		u.openFor(now, cfg, max(waited, min(waited*time.Duration(left), cfg.OpenFor)))
		u.breaker.left = left
	default:
		u.openAgain(now, cfg)
	}
}

// endSpared lets an upstream that was spared take part again, slowly.
func (u *Upstream) endSpared(now instant) {
	if u.breaker.spared {
		u.breaker.spared, u.breaker.doubted, u.breaker.leaving = false, false, lastClients{}
		u.slow.Store(int64(now))
	}
}

// softFail records a failure that blames nobody. As the result of a probe it is no
// proof of health, but may be the fault of a dead destination: the circuit opens
// again for as long as before, or as the probe has waited.
func (u *Upstream) softFail(now instant, cfg *UpstreamConfig, o Observation, probe bool) (Reason, Doubt) {
	u.dirty.Store(true)
	u.connect = false
	switch {
	case probe:
		u.openAgain(now, cfg)
		return "", NoDoubt
	case u.breaker.state != Closed:
		return "", NoDoubt
	}
	if r, doubt := u.suspect(now, cfg, o); r != "" || doubt != NoDoubt {
		return r, doubt
	}
	if o.Kind == ReplyTimeout && instant(u.answered.Load()) < instantOf(o.Started) &&
		(u.asked == 0 || now.sub(u.asked) >= unansweredAgain) {
		u.asked = now
		return "", Unanswered
	}
	return "", NoDoubt
}

// suspect adds a destination to those that raise suspicion.
func (u *Upstream) suspect(now instant, cfg *UpstreamConfig, o Observation) (Reason, Doubt) {
	u.dirty.Store(true)
	u.suspicion.add(now, o.Destination, o.Client)
	if u.convicted(now) {
		if r := u.eject(now, cfg, ReasonElsewhere); r != "" {
			return r, NoDoubt
		}
	}
	if u.suspicion.ask(now) {
		if u.suspicion.tell(now) {
			return "", Suspect
		}
		return "", StillSuspect
	}
	return "", NoDoubt
}

// convicted reports whether suspicion has proved true.
func (u *Upstream) convicted(now instant) bool {
	yes, networks, by := u.suspicion.convicted(now)
	return yes && u.believes(now, networks, by)
}

// answeredElsewhere records that a destination that failed softly here was reached
// on another path.
func (u *Upstream) answeredElsewhere(now instant, cfg *UpstreamConfig, destination uint64) Transition {
	return u.step(now, func() Reason {
		u.suspicion.answeredElsewhere(now, destination)
		u.refusedHere(now, destination)
		if reason := u.chargeWithheld(now, cfg, destination); reason != "" {
			return reason
		}
		if u.breaker.state == Closed && u.convicted(now) {
			return u.eject(now, cfg, ReasonElsewhere)
		}
		return ""
	})
}
