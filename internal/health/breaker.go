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

// Token is the turn of a probe. Zero is none: an ordinary request.
type Token uint32

// breaker is the circuit of an upstream. It only counts and keeps time; whether an
// ejection is allowed is decided outside. The zero value is closed.
type breaker struct {
	state    State
	auth     bool    // open because of refused credentials
	failures int     // in a row
	refused  int     // 407 in a row
	openings int     // n of the open period
	until    instant // end of the open period
	closedAt instant // when it closed last
	askAt    instant // an ejection was forbidden: not to be tried before
	probe    Token   // the last that was given out

	spared    bool          // should be open, and may not
	sparedFor time.Duration // how long it is left alone before the next trial,
	longer    time.Duration // which grows by this each time
	longest   time.Duration // up to this
	tryAt     instant       // when the next trial may be
}

// tryProbe gives out the turn of the probe if the open period is over.
func (b *breaker) tryProbe(now instant) Token {
	if b.state != Open || now < b.until {
		return 0
	}
	b.state = HalfOpen
	if b.probe++; b.probe == 0 {
		b.probe = 1
	}
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

// holds reports whether tok is the turn of the probe under way, and not of one
// whose circuit has moved on.
func (b *breaker) holds(tok Token) bool {
	return tok != 0 && b.state == HalfOpen && tok == b.probe
}

// giveBack ends a probe without a result. The open period is over, so the next
// request is the probe.
func (b *breaker) giveBack() { b.state = Open }

// open opens the circuit; longer also makes the period longer than the last.
// less shortens it (0 to below 1).
func (b *breaker) open(now instant, cfg *UpstreamConfig, longer bool, less float64) {
	b.openings = b.remembered(now)
	if longer || b.openings == 0 {
		b.openings++
	}
	period := cfg.MaxOpenFor
	if n := time.Duration(b.openings); cfg.OpenFor <= cfg.MaxOpenFor/n {
		period = cfg.OpenFor * n
	} else {
		b.openings = int(cfg.MaxOpenFor/cfg.OpenFor) + 1 // no further: it would take as long to shrink
	}
	b.state, b.failures, b.spared = Open, 0, false
	b.until = now.add(period - time.Duration(float64(period)*less))
}

// remembered is how many openings are left of those that were, at now.
func (b *breaker) remembered(now instant) int {
	if b.state != Closed || b.openings == 0 {
		return b.openings
	}
	return b.openings - min(b.openings, int(now.sub(b.closedAt)/decayEvery))
}

func (b *breaker) close(now instant) {
	*b = breaker{openings: b.openings, closedAt: now, probe: b.probe}
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
