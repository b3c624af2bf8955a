package health

import "time"

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
		}
		u.window.add(t, cfg.Window, true)
		if o.Probe == 0 && !u.dirty.Load() && !o.Named {
			return Transition{}, NoDoubt
		}
	}
	return u.observe(t, cfg, o)
}

func (u *Upstream) observe(t instant, cfg *UpstreamConfig, o Observation) (tr Transition, doubt Doubt) {
	tr = u.step(func() (reason Reason) {
		probe := u.breaker.awaits(o.Probe)
		switch o.Kind {
		case Success:
			if !o.Named {
				reason = u.succeed(t, probe)
			} else {
				reason, doubt = u.name(t, cfg, o, probe)
			}
		case Failure, ConnectFailure:
			reason = u.fail(t, cfg, o.Kind == ConnectFailure, probe)
		case AuthFault:
			reason = u.refuse(t, cfg, probe)
		case Overload:
			reason = u.overloaded(t, cfg, o.RetryAfter, probe)
		case SoftFail, ReplyTimeout:
			reason, doubt = u.softFail(t, cfg, o, u.breaker.holds(o.Probe))
		default:
			u.unsettled(t, cfg, &o, u.breaker.holds(o.Probe))
		}
		return reason
	})
	return tr, doubt
}

// succeed forgives everything that is pending. While the circuit is open, only the
// probe closes it: a late success is of a request that began before, and where
// half of them succeed one success proves nothing.
func (u *Upstream) succeed(now instant, probe bool) Reason {
	u.connect = false
	u.suspicion.clear()
	u.withheld, u.own = u.withheld[:0], u.own[:0]
	u.asked = 0
	u.dirty.Store(false)
	if !probe {
		if !u.breaker.auth {
			u.breaker.failures, u.breaker.refused = 0, 0
			u.charged.forgiven(false)
		}
		u.endSpared(now)
		return ""
	}
	u.close(now)
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
	if o.Relayed || u.hasReached(now) {
		return u.succeed(now, probe), NoDoubt
	}
	suspicion := u.suspicion
	u.suspicion.fails = nil
	if reason := u.succeed(now, probe); reason != "" || u.breaker.state != Closed {
		return reason, NoDoubt
	}
	u.suspicion = suspicion
	return u.suspect(now, cfg, o)
}

// hasReached reports whether the upstream has reached a destination within the time for
// which suspicion is remembered.
func (u *Upstream) hasReached(now instant) bool {
	at := instant(u.reached.Load())
	return at != 0 && now.sub(at) <= suspicionWindow
}

func (u *Upstream) fail(now instant, cfg *UpstreamConfig, connect, probe bool) Reason {
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
		u.open(now, cfg, u.groupServes())
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

// refuse records a 407. The third in a row opens the circuit, whatever the group
// says: nobody can be served with these credentials, and attempts may lock the
// account.
func (u *Upstream) refuse(now instant, cfg *UpstreamConfig, probe bool) Reason {
	u.dirty.Store(true)
	u.connect = false
	b := &u.breaker
	if b.refused < authFaults {
		b.refused++
	}
	switch {
	case b.auth && probe:
		u.open(now, cfg, true)
	case b.auth:
		// of a request that began before
	case b.refused == authFaults:
		b.auth = true
		u.open(now, cfg, true)
		return ReasonAuth
	case probe:
		u.open(now, cfg, false) // alive, but no proof that it serves
	}
	return ""
}

// overloaded takes weight away. The upstream answered for itself: a probe has
// passed.
func (u *Upstream) overloaded(now instant, cfg *UpstreamConfig, retryAfter time.Duration, probe bool) Reason {
	u.connect = false
	d := min(max(retryAfter, leastOverload), max(cfg.MaxOpenFor, leastOverload))
	if until := now.add(d); until > instant(u.overload.Load()) {
		u.overload.Store(int64(until))
	}
	if !probe {
		u.endSpared(now)
		return ""
	}
	u.close(now)
	return ReasonProbePassed
}

// unsettled records the end of a request that says nothing. A probe has waited for
// nothing then. One whose client went away keeps the circuit open for as long as it has
// waited only: a client that leaves at once must not keep the upstream out for the others.
func (u *Upstream) unsettled(now instant, cfg *UpstreamConfig, o *Observation, probe bool) {
	switch {
	case !probe:
	case u.breaker.state != HalfOpen:
		u.breaker.settle() // its time was over before
	case o.Kind == Neutral && o.Unsent:
		u.openFor(now, cfg, 0)
	case o.Kind == Cancelled && !o.Overtaken && !u.breaker.auth: // more attempts may lock the account
		u.openFor(now, cfg, u.breaker.waited(now))
	default:
		u.openAgain(now, cfg)
	}
}

// endSpared lets an upstream that was spared take part again, slowly.
func (u *Upstream) endSpared(now instant) {
	if u.breaker.spared {
		u.breaker.spared, u.breaker.doubted = false, false
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
	u.suspicion.add(now, o.Destination)
	if u.suspicion.convicted() {
		if r := u.eject(now, cfg, ReasonElsewhere); r != "" {
			return r, NoDoubt
		}
	}
	if u.suspicion.ask(now) {
		return "", Suspect
	}
	return "", NoDoubt
}

// answeredElsewhere records that a destination that failed softly here was reached
// on another path.
func (u *Upstream) answeredElsewhere(now instant, cfg *UpstreamConfig, destination uint64) Transition {
	return u.step(func() Reason {
		u.suspicion.answeredElsewhere(now, destination)
		if reason := u.chargeWithheld(now, cfg, destination); reason != "" {
			return reason
		}
		if u.breaker.state == Closed && u.suspicion.convicted() {
			return u.eject(now, cfg, ReasonElsewhere)
		}
		return ""
	})
}
