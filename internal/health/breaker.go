package health

import "time"

const (
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
	auth     bool     // open because of refused credentials
	failures int      // in a row
	refused  refusals // of credentials
	openings int      // n of the open period
	openedBy uint64   // host without whose charges it would not have opened; 0: none
	openedAt instant  // begin of the open period
	until    instant  // end of the open period
	closedAt instant  // when it closed last
	askAt    instant  // an ejection was forbidden: not to be tried before
	probe    Token    // the last that was given out
	oldest   Token    // of those that may still tell a result
	probedAt instant  // when probe was given out
	probeEnd instant  // when its time is over
	by       Client   // whose probe it is
	beside   bool     // there is another one, of before
	left     int      // probes in a row whose client went away

	checkRefused bool // a check was refused with the credentials, and has not passed since

	leaving   lastClients // who leave the next one to others: theirs have told nothing
	leftUntil instant     // until then it is left to what tells most of the credentials

	doubted bool // for suspicion it is open, or should be

	spared    bool          // should be open, and may not
	sparedFor time.Duration // how long it is left alone before the next trial,
	longer    time.Duration // which grows by this each time
	longest   time.Duration // up to this
	tryAt     instant       // when the next trial may be
}

// tryProbe gives out the turn of the probe, for so long, if the open period is over. A
// client that leaves it to others gets it when nobody else has come for a while. Another
// client's may go beside one that takes its time, but no third: an upstream that hangs must
// not keep them all waiting.
func (b *breaker) tryProbe(now instant, client Client, limit time.Duration, cfg *UpstreamConfig) Token {
	switch {
	case now < b.due():
		return 0
	case b.state == Open:
		if b.leaves(client) && now < b.until.add(leaveFor(cfg)) {
			return 0
		}
		b.beside = false
	case b.maySendBeside() && now < b.probeEnd && client != b.by && !b.leaving.has(client):
		b.beside = true
	default:
		return 0
	}
	b.probe, b.by = b.probe.next(), client
	b.state, b.probedAt, b.probeEnd = HalfOpen, now, now.add(limit)
	return b.probe
}

// maySendBeside reports whether another probe may go beside the one under way, when that
// has taken its time. Credentials that were refused are tried once at a time.
func (b *breaker) maySendBeside() bool { return b.state == HalfOpen && !b.beside && !b.auth }

// leaves reports whether a client has had its turn. Where credentials are refused, that is
// one for its network.
func (b *breaker) leaves(c Client) bool { return b.leaving.has(c) || b.auth && b.leaving.hasNetwork(c) }

// leaveFor is for how long a client leaves the probe to others.
func leaveFor(cfg *UpstreamConfig) time.Duration { return min(cfg.OpenFor, leaveTo) }

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
// for its end: without a success there is another one later, after a longer time, which the
// same client leaves to others.
func (b *breaker) tryTrial(now instant, client Client, cfg *UpstreamConfig) bool {
	if now < b.tryAt || b.leaving.has(client) && now < b.tryAt.add(leaveFor(cfg)) {
		return false
	}
	b.leaving.add(client)
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

// keepOther takes settle back, after a probe that has proved nothing, where the other one
// beside it may still tell a result.
func (b *breaker) keepOther(oldest Token) {
	if b.beside {
		b.oldest = oldest
	}
}

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
		if b.maySendBeside() {
			return min(b.probedAt.add(besideAfter), b.probeEnd)
		}
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
	b.state, b.failures, b.left, b.spared = Open, 0, 0, false
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
