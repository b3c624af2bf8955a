package health

import (
	"fmt"
	"time"
)

// UpstreamConfig is the tuning of the circuits of a group's upstreams. It is
// immutable once it is in use. Start from [DefaultUpstreamConfig]: the zero value
// turns everything off.
type UpstreamConfig struct {
	// ConsecutiveFailures is how many failures in a row, with no success between,
	// open a circuit. Zero: their number opens none.
	ConsecutiveFailures int

	// MinSuccessRate is the share (0 to 1) of successes in Window below which a
	// circuit opens. Zero: the rate opens none.
	MinSuccessRate float64

	// Window is the time over which the rate is taken.
	Window time.Duration

	// MinSamples is how many results Window must hold for the rate to count.
	MinSamples int

	// OpenFor is how long a circuit stays open the first time; the nth time it
	// stays open n times as long.
	OpenFor time.Duration

	// MaxOpenFor bounds that growth.
	MaxOpenFor time.Duration

	// Jitter is the share (0 to below 1) by which an open period may be shorter,
	// so that upstreams that failed together are not probed together.
	Jitter float64

	// MaxEjected is the share (0 to 1) of a group that may be ejected, counted
	// after the ejection.
	MaxEjected float64

	// PanicBelow is the share (0 to 1) of a group in rotation below which ejection
	// is ignored. Zero: there is no panic.
	PanicBelow float64

	// SlowStart is the time in which an upstream that comes back after a failure
	// regains its weight, from a tenth of it. Zero: it has all of it at once.
	SlowStart time.Duration
}

// DefaultUpstreamConfig returns the defaults.
func DefaultUpstreamConfig() UpstreamConfig {
	return UpstreamConfig{
		ConsecutiveFailures: 5,
		MinSuccessRate:      0.5,
		Window:              30 * time.Second,
		MinSamples:          20,
		OpenFor:             10 * time.Second,
		MaxOpenFor:          300 * time.Second,
		Jitter:              0.1,
		MaxEjected:          0.5,
		PanicBelow:          0.5,
		SlowStart:           30 * time.Second,
	}
}

// Validate reports the first setting that makes no sense, under the name that it
// has in the configuration.
func (c *UpstreamConfig) Validate() error {
	share := func(name string, v float64) error {
		if v >= 0 && v <= 1 { // not so for NaN
			return nil
		}
		return fmt.Errorf("%s: %v is not between 0 and 1", name, v)
	}
	for _, err := range []error{
		share("min_success_rate", c.MinSuccessRate),
		share("max_ejected", c.MaxEjected),
		share("panic_below", c.PanicBelow),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case c.ConsecutiveFailures < 0:
		return fmt.Errorf("consecutive_failures: %d is negative", c.ConsecutiveFailures)
	case c.MinSuccessRate > 0 && c.Window < MinWindow:
		return fmt.Errorf("window: %s is shorter than %s", c.Window, MinWindow)
	case c.MinSuccessRate > 0 && c.MinSamples < 1:
		return fmt.Errorf("min_samples: %d is too low: at least 1", c.MinSamples)
	case c.OpenFor <= 0:
		return fmt.Errorf("open_for: %s is not positive", c.OpenFor)
	case c.MaxOpenFor < c.OpenFor:
		return fmt.Errorf("max_open_for: %s is shorter than open_for (%s)", c.MaxOpenFor, c.OpenFor)
	case !(c.Jitter >= 0 && c.Jitter < 1):
		return fmt.Errorf("jitter: %v is not between 0 and 1", c.Jitter)
	case c.SlowStart < 0:
		return fmt.Errorf("slow_start: %s is negative", c.SlowStart)
	}
	return nil
}
