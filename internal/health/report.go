package health

import "time"

// Report is all that is known about an upstream, for people to look at.
type Report struct {
	Status

	Exchanges, Tunnels int64
	Latency            time.Duration // 0: none measured
	Factor             float64       // share of its weight

	Failures       int       // in a row
	Passed, Failed int       // requests in the window
	OpenUntil      time.Time // of an open circuit: when a probe is due
	Ejections      int       // n of the open period, less what was forgotten since
	SoftFails      int       // distinct destinations that failed softly
	Overloaded     time.Time // until then; zero: not

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
		Exchanges:   u.Exchanges(),
		Tunnels:     u.Tunnels(),
		Latency:     u.Latency(now),
		Factor:      u.Factor(now, cfg),
		Failures:    u.breaker.failures,
		Ejections:   u.breaker.remembered(t),
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
	u.suspicion.expire(t)
	r.SoftFails = len(u.suspicion.fails)
	r.Passed, r.Failed = u.window.counts(t, cfg.Window)
	return r
}
