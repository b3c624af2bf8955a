package health

import (
	"slices"
	"time"
)

// ProbeLimit is how long the turn of a probe is kept at most for a request that tells no
// result, so that no turn is lost.
const ProbeLimit = 30 * time.Second

// Token is the turn of a probe. Zero is none: an ordinary request.
type Token uint32

// next returns another token.
func (t Token) next() Token { return max(t+1, 1) }

// State is the state of a circuit.
type State uint8

// The states of a circuit.
const (
	Closed   State = iota // requests pass
	Open                  // requests fail fast
	HalfOpen              // one request is under way as the probe
)

func (s State) String() string {
	switch s {
	case Open:
		return "open"
	case HalfOpen:
		return "half_open"
	default:
		return "closed"
	}
}

// CircuitConfig is the tuning of a circuit. All fields must be positive.
type CircuitConfig struct {
	Failures   int           // consecutive failures that open it
	Window     time.Duration // within which they must fall
	OpenFor    time.Duration // how long it stays open the first time
	MaxOpenFor time.Duration // upper bound of its growth, 1.6 times each time
}

// growth is the factor by which an open period outgrows the one before.
const growth = 1.6

// Circuit is a consecutive-failure circuit breaker: closed until Failures
// failures in a row fall within Window, then open, then half-open for one probe,
// whose result closes or opens it again. The zero value is closed.
type Circuit struct {
	state   State
	recent  []time.Time // failures in a row, within the window
	openFor time.Duration
	until   time.Time // end of the open period

	last     Token // that was given out
	settled  Token // up to here no result is awaited
	probedAt time.Time
	turn     time.Duration // of the last probe
}

// State returns the state as of the last step.
func (c *Circuit) State() State { return c.state }

// Allow asks whether a request may pass. probe is not zero for the one request that
// a half-open circuit lets through: its end must be told with Success, Failure,
// Unsettled, Left or GiveBack. Where it has told nothing after turn, another one is let through beside it;
// the result of either counts. When the answer is no, RetryAfter is how long the circuit
// stays shut at least.
func (c *Circuit) Allow(now time.Time, turn time.Duration) (ok bool, probe Token, retryAfter time.Duration) {
	switch {
	case c.state == Closed:
		return true, 0, 0
	case c.state == Open && now.Before(c.until):
		return false, 0, c.until.Sub(now)
	case c.state == HalfOpen && now.Sub(c.probedAt) < c.turn:
		return false, 0, time.Second
	}
	c.last = c.last.next()
	c.state, c.probedAt, c.turn = HalfOpen, now, turn
	return true, c.last, 0
}

// Shut returns how long the circuit stays shut at least; 0: Allow would let a request
// through.
func (c *Circuit) Shut(now time.Time) time.Duration {
	look := *c
	_, _, wait := look.Allow(now, 0)
	return wait
}

// Until is when an open circuit lets a request try again; zero where it is not open.
func (c *Circuit) Until() time.Time {
	if c.state != Open {
		return time.Time{}
	}
	return c.until
}

// Success records a success and reports whether it closed the circuit. A late
// success of a request that began before the circuit opened closes it as well:
// the destination has just been reached.
func (c *Circuit) Success() (changed bool) {
	changed = c.state != Closed
	*c = Circuit{last: c.last, settled: c.last}
	return changed
}

// Failure records a failure and reports whether it opened the circuit. Failures
// while it is open (of requests that began before) change nothing. A probe whose
// circuit was closed in the meantime, by a late success, counts like any other.
func (c *Circuit) Failure(now time.Time, probe Token, cfg CircuitConfig) (changed bool) {
	switch {
	case c.awaits(probe):
		c.open(now, cfg)
		return true
	case c.state != Closed:
		return false
	}
	c.recent = slices.DeleteFunc(c.recent, func(t time.Time) bool { return now.Sub(t) > cfg.Window })
	c.recent = append(c.recent, now)
	if len(c.recent) < cfg.Failures {
		return false
	}
	c.open(now, cfg)
	return true
}

// Unsettled records that a probe has ended without a result. If no other one has been
// sent since, the circuit opens again, without growth, for at least as long as the probe
// has waited of its turn: who lets its clients wait must not get each next request as the
// next probe.
func (c *Circuit) Unsettled(now time.Time, probe Token) {
	c.reopen(now, probe, max(c.openFor, c.waited(now)))
}

// Left is Unsettled for a probe whose client went away: the circuit opens for as long as
// the probe has waited, and no longer. A client that leaves at once must not keep the
// circuit open for all others.
func (c *Circuit) Left(now time.Time, probe Token) { c.reopen(now, probe, c.waited(now)) }

// GiveBack is Unsettled for a probe that was not sent: the next request is the probe.
func (c *Circuit) GiveBack(now time.Time, probe Token) { c.reopen(now, probe, 0) }

// reopen opens the circuit after a probe that has told nothing.
func (c *Circuit) reopen(now time.Time, probe Token, d time.Duration) {
	if c.awaits(probe) && probe == c.last && c.state == HalfOpen {
		c.state, c.until = Open, now.Add(d)
	}
}

// waited is how long the probe has waited of its turn.
func (c *Circuit) waited(now time.Time) time.Duration { return min(now.Sub(c.probedAt), c.turn) }

// Failing returns how many failures count towards those that open the circuit.
func (c *Circuit) Failing(now time.Time, window time.Duration) (n int) {
	for _, t := range c.recent {
		if now.Sub(t) <= window {
			n++
		}
	}
	return n
}

// awaits reports whether the result of probe is awaited: nothing has settled it since.
func (c *Circuit) awaits(probe Token) bool {
	return probe != 0 && int32(probe-c.settled) > 0 && int32(c.last-probe) >= 0
}

func (c *Circuit) open(now time.Time, cfg CircuitConfig) {
	if c.openFor == 0 {
		c.openFor = cfg.OpenFor
	} else if longer := float64(c.openFor) * growth; longer < float64(cfg.MaxOpenFor) {
		c.openFor = time.Duration(longer)
	} else {
		c.openFor = cfg.MaxOpenFor
	}
	c.state, c.recent, c.settled, c.until = Open, nil, c.last, now.Add(c.openFor)
}
