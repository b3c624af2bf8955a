package health

import (
	"slices"
	"time"
)

// CheckResult is the result of one active check.
type CheckResult struct {
	Check   string // the identity of the check
	Outcome CheckOutcome
	Started time.Time     // a check asked for later is not answered by this one
	Took    time.Duration // for metrics
	Err     error         // why it did not pass

	// Own: the failure is surely the upstream's, not that of a target.
	Own bool

	// ProvesAuth: the check carried the credentials and they were accepted.
	ProvesAuth bool
}

// ObserveCheck records the result of an active check and returns up to two
// transitions: of the active state and of the circuit. One of another check than the
// present one is nothing.
func (u *Upstream) ObserveCheck(now time.Time, cfg *UpstreamConfig, rise, fall int, r CheckResult) []Transition {
	t := instantOf(now)
	if r.Outcome == Unauthorized {
		known := false
		u.step(t, func() Reason {
			known = u.record(t, r)
			u.breaker.checkRefused = u.breaker.checkRefused || known
			return ""
		})
		if !known {
			return nil
		}
		tr, _ := u.observe(t, cfg, Observation{Kind: AuthFault})
		return changed(nil, tr)
	}
	active := u.step(t, func() Reason { return u.checked(t, rise, fall, r) })
	circuit := u.step(t, func() Reason { return u.checkedCircuit(t, cfg, r) })
	return changed(changed(nil, active), circuit)
}

func changed(ts []Transition, t Transition) []Transition {
	if t.Changed() {
		ts = append(ts, t)
	}
	return ts
}

// record keeps what the operator is shown of a check, unless it is of another one.
func (u *Upstream) record(now instant, r CheckResult) bool {
	if r.Check != u.checks.id {
		return false
	}
	u.checks.at, u.checks.outcome, u.checks.err = now, r.Outcome, r.Err
	return true
}

// checked moves the active state.
func (u *Upstream) checked(now instant, rise, fall int, r CheckResult) Reason {
	if !u.record(now, r) {
		return ""
	}
	if r.Outcome == Inconclusive {
		if u.checks.activity.old { // what another check has found is worth nothing
			u.checks.activity, u.checks.failed = activity{}, false
		}
		return ReasonUnchecked
	}
	was := u.checks.activity.state
	u.checks.failed = r.Outcome == Failed
	u.checks.activity, _ = u.checks.activity.next(r.Outcome == Passed, rise, fall)
	if r.Outcome == Failed {
		u.checks.own = r.Own
		return ReasonCheckFailed
	}
	if was == Down && u.checks.activity.state == Up {
		u.slow.Store(int64(now))
	}
	return ReasonCheckPassed
}

// checkedCircuit is what a check says about the circuit: it answers suspicion and
// unanswered requests, and it may prove the credentials. It does so only where it was refused
// with them before: its target may be one that is for everybody.
func (u *Upstream) checkedCircuit(now instant, cfg *UpstreamConfig, r CheckResult) Reason {
	if r.Check != u.checks.id {
		return ""
	}
	if r.Outcome == Passed && r.ProvesAuth {
		u.accepted.Store(int64(now))
	}
	if r.Outcome == Passed && r.ProvesAuth && u.breaker.checkRefused {
		u.breaker.refused, u.breaker.checkRefused = refusals{}, false
		if u.breaker.auth {
			u.close(now)
			return ReasonCheckPassed
		}
	}
	answers := func(asked instant) bool { return asked != 0 && instantOf(r.Started) >= asked }
	suspected, unanswered := answers(u.suspicion.asked), answers(u.asked)
	if suspected && r.Outcome != Failed {
		u.suspicion.clear()
	}
	if unanswered {
		u.asked = 0
	}
	switch {
	case r.Outcome != Failed || u.breaker.state != Closed:
		return ""
	case suspected:
		u.suspicion.clear()
		return u.eject(now, cfg, ReasonSuspicion)
	case unanswered:
		return u.fail(now, cfg, &Observation{Kind: Failure}, false)
	}
	return ""
}

// downByItself reports whether it is down since it could not be reached, or failed a
// check without a target.
func (u *Upstream) downByItself() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.checks.activity.state == Down && u.checks.own
}

// last reports whether it is the only member of a group that is in rotation, or could be
// if it were. One that is spared does not count: it should not be there.
func (u *Upstream) last() bool {
	u.mu.Lock()
	groups := slices.Clone(u.groups)
	u.mu.Unlock()
	return slices.ContainsFunc(groups, func(g *Group) bool {
		return !slices.ContainsFunc(g.Members(), func(m *Member) bool {
			s := m.Upstream.Status()
			return m.Upstream != u && s.InRotation() && !s.Spared
		})
	})
}

func (u *Upstream) setCheckDue(id string, due instant) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if id == u.checks.id {
		u.checks.due = due
	}
}

// claimCheck takes the right to check now. Where another Checker of the same
// upstream (the one of the configuration before or of another group) has, or makes another
// check, as the one that began last, or the operator wants no checks, it tells when to ask
// again. The next check is due after the time that this one may take, in case it ends
// without a result. A check that the Checker before has begun is not made again: left is its
// result.
func (u *Upstream) claimCheck(now instant, c *Checker, force bool) (due instant, left *result, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.admin == Maint:
		return now.add(c.cfg.Interval), nil, false
	case u.checks.id == c.cfg.Identity:
	case len(u.checks.by) > 0:
		return now.add(c.cfg.Interval), nil, false
	default:
		u.takeUp(now, c)
	}
	if left = u.checks.takeLeft(); left != nil {
		return 0, left, true
	}
	switch {
	case force:
	case u.checks.goesOn != nil:
		return now.add(c.cfg.longest()), nil, false // sooner, when it has ended
	case u.checks.due > now:
		return u.checks.due, nil, false
	}
	u.checks.due = now.add(c.cfg.longest())
	return 0, nil, true
}

// nextCheck plans the next check.
func (u *Upstream) nextCheck(now instant, cfg *CheckerConfig, random float64, outcome CheckOutcome, traffic bool) plan {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := cfg.pace().next(u.checks.activity, u.checks.backoff, outcome, traffic)
	if !p.exact {
		p.wait = time.Duration(float64(p.wait) * (1 + cfg.Jitter*(2*random-1)))
	}
	if u.checks.id != cfg.Identity {
		return p
	}
	u.checks.backoff, u.checks.due = p.backoff, now.add(p.wait)
	if p.idle {
		// That nobody uses this group is no reason for another one with the same
		// upstream to wait as long.
		u.checks.due = now.add(min(p.wait, cfg.Interval))
	}
	return p
}
