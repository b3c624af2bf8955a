package health

import "time"

// activity is the rise and fall of active checks.
type activity struct {
	state Active
	run   int  // results in a row that speak against state
	old   bool // state is what another check has found
}

// afresh is the activity where another check begins.
func (a activity) afresh() activity { return activity{state: a.state, old: a.state != Unknown} }

// next returns the activity after a result, and whether the state changed.
func (a activity) next(pass bool, rise, fall int) (activity, bool) {
	need := fall
	switch {
	case a.state == Unknown:
		need = 1 // the first result decides
	case pass == (a.state == Up):
		return activity{state: a.state}, false
	case a.old: // here, too
		need = 1
	case pass:
		need = rise
	}
	if a.run+1 < need {
		return activity{state: a.state, run: a.run + 1}, false
	}
	if pass {
		return activity{state: Up}, true
	}
	return activity{state: Down}, true
}

// backoffGrowth is the factor by which checks of an upstream that is down slow down.
const backoffGrowth = 1.6

// pace is how the time between checks is found.
type pace struct {
	interval, fast, idle, maxInterval time.Duration
}

// plan is when the next check is to be.
type plan struct {
	wait    time.Duration // before jitter
	backoff time.Duration // to pass in the next time
	exact   bool          // without jitter
	idle    bool          // put off because nobody uses the group
}

// next plans the next check. An upstream that is down, or refuses our credentials,
// is checked ever less often; one that is about to change state at once.
func (p pace) next(a activity, backoff time.Duration, outcome CheckOutcome, traffic bool) plan {
	counted := outcome == Passed || outcome == Failed
	switch {
	case a.run > 0 && counted:
		return plan{wait: p.fast, exact: true}
	case a.state == Down || outcome == Unauthorized:
		wait := p.interval
		if backoff > 0 {
			wait = min(time.Duration(float64(backoff)*backoffGrowth), max(p.maxInterval, p.interval))
		}
		return plan{wait: wait, backoff: wait}
	case !traffic:
		return plan{wait: max(p.idle, p.interval), idle: true}
	}
	return plan{wait: p.interval}
}
