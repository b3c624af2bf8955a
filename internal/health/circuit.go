package health

import (
	"slices"
	"time"
)

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
// failures in a row fall within Window, then open, then half-open for exactly
// one probe, whose result closes or opens it again. The zero value is closed.
type Circuit struct {
	state   State
	recent  []time.Time // failures in a row, within the window
	openFor time.Duration
	until   time.Time // end of the open period
}

// State returns the state as of the last step.
func (c *Circuit) State() State { return c.state }

// Allow asks whether a request may pass. probe is true for the one request that
// a half-open circuit lets through: its result must be told with Success or
// Failure, or its turn given back with Cancel. When the answer is no, retryAfter
// is how long the circuit stays shut at least.
func (c *Circuit) Allow(now time.Time) (ok, probe bool, retryAfter time.Duration) {
	switch {
	case c.state == Closed:
		return true, false, 0
	case c.state == Open && !now.Before(c.until):
		c.state = HalfOpen
		return true, true, 0
	case c.state == Open:
		return false, false, c.until.Sub(now)
	default:
		return false, false, time.Second
	}
}

// Success records a success and reports whether it closed the circuit. A late
// success of a request that began before the circuit opened closes it as well:
// the destination has just been reached.
func (c *Circuit) Success() (changed bool) {
	changed = c.state != Closed
	*c = Circuit{}
	return changed
}

// Failure records a failure and reports whether it opened the circuit. Failures
// while it is open (of requests that began before) change nothing. A probe whose
// circuit was closed in the meantime, by a late success, counts like any other.
func (c *Circuit) Failure(now time.Time, probe bool, cfg CircuitConfig) (changed bool) {
	switch {
	case probe && c.state == HalfOpen:
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

// Cancel gives the turn of a probe back that ended without a result: the next
// request is the probe.
func (c *Circuit) Cancel(now time.Time) {
	if c.state == HalfOpen {
		c.state, c.until = Open, now
	}
}

func (c *Circuit) open(now time.Time, cfg CircuitConfig) {
	if c.openFor == 0 {
		c.openFor = cfg.OpenFor
	} else if longer := float64(c.openFor) * growth; longer < float64(cfg.MaxOpenFor) {
		c.openFor = time.Duration(longer)
	} else {
		c.openFor = cfg.MaxOpenFor
	}
	c.state, c.recent, c.until = Open, nil, now.Add(c.openFor)
}
