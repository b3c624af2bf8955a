package health

import "time"

const (
	// authFaults is how many 407 in a row are an authentication fault.
	authFaults = 3

	// decayEvery is the time of health after which one ejection is forgotten.
	decayEvery = time.Minute

	// askAgain is how long an upstream that may not be ejected is left alone
	// before the group is asked again.
	askAgain = time.Second
)

// breaker is the circuit of an upstream. It only counts and keeps time; whether an
// ejection is allowed is decided outside. The zero value is closed.
type breaker struct {
	state    State
	auth     bool    // open because of refused credentials
	failures int     // in a row
	refused  int     // 407 in a row
	openings int     // n of the open period
	openedBy uint64  // host without whose charges it would not have opened; 0: none
	openedAt instant // begin of the open period
	until    instant // end of the open period
	closedAt instant // when it closed last
	askAt    instant // an ejection was forbidden: not to be tried before
	probe    Token   // the last that was given out
	oldest   Token   // of those that may still tell a result
	probedAt instant // when probe was given out
	probeEnd instant // when its time is over

	doubted bool // for suspicion it is open, or should be

	spared    bool          // should be open, and may not
	sparedFor time.Duration // how long it is left alone before the next trial,
	longer    time.Duration // which grows by this each time
	longest   time.Duration // up to this
	tryAt     instant       // when the next trial may be
}

// tryProbe gives out the turn of the probe, for so long, if the open period is over.
func (b *breaker) tryProbe(now instant, limit time.Duration) Token {
	if b.state != Open || now < b.until {
		return 0
	}
	b.probe = b.probe.next()
	b.state, b.probedAt, b.probeEnd = HalfOpen, now, now.add(limit)
	return b.probe
}

// spare notes that the circuit should be open, but the group cannot do without the
// upstream: it is used last, and has a trial now and then.
func (b *breaker) spare(now instant, cfg *UpstreamConfig) {
	b.askAt = now.add(askAgain)
	if !b.spared {
		b.spared, b.sparedFor, b.longer, b.longest = true, cfg.OpenFor, cfg.OpenFor, cfg.MaxOpenFor
		b.tryAt = now.add(b.sparedFor)
	}
}

// tryTrial takes the trial if its time has come. It needs no token, since nothing waits
// for its end: without a success there is another one later, after a longer time.
func (b *breaker) tryTrial(now instant) bool {
	if now < b.tryAt {
		return false
	}
	b.sparedFor = min(b.sparedFor+b.longer, b.longest)
	b.tryAt = now.add(b.sparedFor)
	return true
}

// holds reports whether tok is the last turn that was given out, and nothing has
// settled it: its time may be over, but there is no other probe.
func (b *breaker) holds(tok Token) bool { return tok == b.probe && b.awaits(tok) }

// awaits reports whether tok is a turn that nothing has settled. Its time may be over
// and another probe may be under way: a result is a result all the same.
func (b *breaker) awaits(tok Token) bool {
	return tok != 0 && b.state != Closed && int32(tok-b.oldest) >= 0 && int32(b.probe-tok) >= 0
}

// settle makes what earlier probes tell worth nothing.
func (b *breaker) settle() { b.oldest = b.probe.next() }

// waited is how long the probe has waited for its result.
func (b *breaker) waited(now instant) time.Duration { return min(now.sub(b.probedAt), ProbeLimit) }

// overdue reports whether the time of the probe that is under way is over.
func (b *breaker) overdue(now instant) bool { return b.state == HalfOpen && now >= b.probeEnd }

// due is the instant from which the next probe may be tried; 0: never.
func (b *breaker) due() instant {
	switch b.state {
	case Open:
		return b.until
	case HalfOpen:
		return b.probeEnd
	}
	return 0
}

// open opens the circuit; longer also makes the period longer than the last.
// less shortens it (0 to below 1).
func (b *breaker) open(now instant, cfg *UpstreamConfig, longer bool, less float64) {
	b.openings = b.remembered(now)
	if longer || b.openings == 0 {
		b.openings++
	}
	period := cfg.MaxOpenFor
	if n := time.Duration(b.openings); cfg.OpenFor <= cfg.MaxOpenFor/n {
		period = cfg.OpenFor * n //nolint:durationcheck // n is a count
	} else {
		b.openings = int(cfg.MaxOpenFor/cfg.OpenFor) + 1 // no further: it would take as long to shrink
	}
	if b.state == Closed {
		b.openedBy = 0
	}
	b.state, b.failures, b.spared = Open, 0, false
	b.openedAt, b.until = now, now.add(period-time.Duration(float64(period)*less))
	b.settle()
}

// remembered is how many openings are left of those that were, at now.
func (b *breaker) remembered(now instant) int {
	if b.state != Closed || b.openings == 0 {
		return b.openings
	}
	return b.openings - min(b.openings, int(now.sub(b.closedAt)/decayEvery))
}

func (b *breaker) close(now instant) {
	*b = breaker{openings: b.openings, closedAt: now, probe: b.probe, oldest: b.probe.next()}
}

// wantsOpen tells why the circuit should open, if it should.
func (b *breaker) wantsOpen(passed, failed int, cfg *UpstreamConfig) Reason {
	if cfg.ConsecutiveFailures > 0 && b.failures >= cfg.ConsecutiveFailures {
		return ReasonFailures
	}
	if n := passed + failed; cfg.MinSuccessRate > 0 && n >= cfg.MinSamples &&
		float64(passed) < cfg.MinSuccessRate*float64(n) {
		return ReasonSuccessRate
	}
	return ""
}
