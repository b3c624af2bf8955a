package health

import "time"

// SpareCause is why a circuit that should open may not.
type SpareCause uint8

// The causes.
const (
	SparedLast       SpareCause = iota // nobody else of the group is in rotation
	SparedMaxEjected                   // as many are out as may be
	SpareCauses                        // how many there are
)

// String is the word for it.
func (c SpareCause) String() string { return [SpareCauses]string{"last", "max_ejected"}[c] }

// Report is all that is known about an upstream, for people to look at.
type Report struct {
	Status

	// Since is when it came to be in rotation, or out of it, or to be spared, as it is now,
	// and Why is the reason of that. Zero: it has been so from the beginning.
	Since time.Time
	Why   Reason

	Exchanges, Tunnels int64
	Latency            time.Duration // 0: none measured
	Factor             float64       // share of its weight

	Failures       int                 // in a row
	Passed, Failed int                 // requests in the window
	OpenUntil      time.Time           // of an open circuit: when a probe is due
	Ejections      int                 // n of the open period, less what was forgotten since
	Spares         [SpareCauses]uint64 // how often the circuit should have opened, and might not
	SoftFails      int                 // distinct destinations that failed softly
	Overloaded     time.Time           // until then; zero: not
	Refusing       bool                // our credentials, so much that others are asked first for what it has never reached

	LastCheck   time.Time // zero: never checked
	LastOutcome CheckOutcome
	LastError   error     // of the last check, if it did not pass
	NextCheck   time.Time // zero: none is planned
}

// Report returns it as of now. It takes the lock: it is not for hot paths.
func (u *Upstream) Report(now time.Time, cfg *UpstreamConfig) Report {
	t := instantOf(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	r := Report{
		Status:      u.status(),
		Since:       u.since.time(),
		Why:         u.why,
		Exchanges:   u.Exchanges(),
		Tunnels:     u.Tunnels(),
		Latency:     u.Latency(now),
		Factor:      u.Factor(now, cfg),
		Failures:    u.breaker.failures,
		Ejections:   u.breaker.remembered(t),
		Spares:      u.spares,
		LastCheck:   u.checks.at.time(),
		LastOutcome: u.checks.outcome,
		LastError:   u.checks.err,
		NextCheck:   u.checks.due.time(),
	}
	if u.breaker.state == Open {
		r.OpenUntil = u.breaker.until.time()
	}
	if over := instant(u.overload.Load()); t < over {
		r.Overloaded = over.time()
	}
	r.Refusing = !u.breaker.auth && u.breaker.refused.slowing.slow && u.breaker.refused.slowing.total.much(t)
	u.suspicion.expire(t)
	r.SoftFails = len(u.suspicion.fails)
	r.Passed, r.Failed = u.window.counts(t, cfg.Window)
	return r
}
