package health

import (
	"slices"
	"time"
)

// CheckResult is the result of one active check.
type CheckResult struct {
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
// transitions: of the active state and of the circuit.
func (u *Upstream) ObserveCheck(now time.Time, cfg *UpstreamConfig, rise, fall int, r CheckResult) []Transition {
	t := instantOf(now)
	if r.Outcome == Unauthorized {
		tr, _ := u.observe(t, cfg, Observation{Kind: AuthFault})
		u.step(func() Reason { u.record(t, r); return "" })
		return changed(nil, tr)
	}
	active := u.step(func() Reason { return u.checked(t, rise, fall, r) })
	circuit := u.step(func() Reason { return u.checkedCircuit(t, cfg, r) })
	return changed(changed(nil, active), circuit)
}

func changed(ts []Transition, t Transition) []Transition {
	if t.Changed() {
		ts = append(ts, t)
	}
	return ts
}

// record keeps what the operator is shown of a check.
func (u *Upstream) record(now instant, r CheckResult) {
	u.checks.at, u.checks.outcome, u.checks.err = now, r.Outcome, r.Err
}

// checked moves the active state.
func (u *Upstream) checked(now instant, rise, fall int, r CheckResult) Reason {
	u.record(now, r)
	if r.Outcome == Inconclusive {
		return ""
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
// unanswered requests, and it may prove the credentials.
func (u *Upstream) checkedCircuit(now instant, cfg *UpstreamConfig, r CheckResult) Reason {
	if r.Outcome == Passed && r.ProvesAuth {
		u.breaker.refused = 0
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
		return u.fail(now, cfg, false, false)
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

func (u *Upstream) setCheckDue(due instant) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.checks.due = due
}

// claimCheck takes the right to check now. Where another Checker of the same
// upstream (the one of the configuration before or of another group) has, or the
// operator wants no checks, it tells when to ask again. The next check is due after
// the time that this one may take, in case it ends without a result.
func (u *Upstream) claimCheck(now instant, cfg *CheckerConfig, force bool) (due instant, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.admin == Maint:
		return now.add(cfg.Interval), false
	case u.checks.due > now && !force:
		return u.checks.due, false
	}
	steps := max(len(cfg.Targets), 1)
	if cfg.CheckSelf != nil {
		steps++
	}
	u.checks.due = now.add(cfg.Timeout * time.Duration(steps))
	return 0, true
}

// nextCheck plans the next check.
func (u *Upstream) nextCheck(now instant, cfg *CheckerConfig, random float64, outcome CheckOutcome, traffic bool) plan {
	u.mu.Lock()
	defer u.mu.Unlock()
	p := cfg.pace().next(u.checks.activity, u.checks.backoff, outcome, traffic)
	if !p.exact {
		p.wait = time.Duration(float64(p.wait) * (1 + cfg.Jitter*(2*random-1)))
	}
	u.checks.backoff, u.checks.due = p.backoff, now.add(p.wait)
	if p.idle {
		// That nobody uses this group is no reason for another one with the same
		// upstream to wait as long.
		u.checks.due = now.add(min(p.wait, cfg.Interval))
	}
	return p
}
