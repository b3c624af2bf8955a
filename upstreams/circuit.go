package upstreams

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/words"
)

// Circuit is the passive health of upstreams: what requests meet on
// their way. A member is charged only with what is its own fault (see docs/health.md
// for the table): a destination that is dead, a refusal by policy and a
// client that leaves never count.
type Circuit struct {
	// ConsecutiveFailures is how many failures in a row open the circuit of
	// a member. Default: 5.
	ConsecutiveFailures int `json:"consecutive_failures,omitempty"`

	// MinSuccessRate is the share of successes in Window below which the
	// circuit opens, where there are MinSamples. From 0 to 1. Default: 0.5.
	MinSuccessRate *float64 `json:"min_success_rate,omitempty"`

	// Window is the time over which successes and failures are counted.
	// Default: 30s.
	Window caddy.Duration `json:"window,omitempty"`

	// MinSamples is how many results there must be in Window for the rate to
	// mean anything. Default: 20.
	MinSamples int `json:"min_samples,omitempty"`

	// OpenFor is the first pause of a member. The next one is twice as long,
	// the third three times; the count goes down again with health.
	// Default: 10s.
	OpenFor caddy.Duration `json:"open_for,omitempty"`

	// MaxOpenFor is the longest pause. Default: 5m, or open_for where that is
	// longer.
	MaxOpenFor caddy.Duration `json:"max_open_for,omitempty"`

	// MaxEjected is the share of the group that may be out by circuit at the
	// same time; a failure beyond it leaves the member in. The last member is
	// never out. From 0 to 1. Default: 0.5.
	MaxEjected *float64 `json:"max_ejected,omitempty"`

	// PanicBelow is the share of available members below which circuits are
	// ignored: sending requests to members that failed lately is better than
	// drowning the few that are left. Members that are down by active check
	// stay out. From 0 to 1. Default: 0.5.
	PanicBelow *float64 `json:"panic_below,omitempty"`
}

func (c *Circuit) withDefaults() Circuit {
	out := Circuit{}
	if c != nil {
		out = *c
	}
	settings.Default(&out.ConsecutiveFailures, 5)
	settings.Default(&out.Window, caddy.Duration(30*time.Second))
	settings.Default(&out.MinSamples, 20)
	settings.Default(&out.OpenFor, caddy.Duration(10*time.Second))
	settings.Default(&out.MaxOpenFor, max(caddy.Duration(5*time.Minute), out.OpenFor))
	for _, share := range []**float64{&out.MinSuccessRate, &out.MaxEjected, &out.PanicBelow} {
		if *share == nil {
			half := 0.5
			*share = &half
		}
	}
	return out
}

func (c *Circuit) validate() error {
	switch {
	case c.ConsecutiveFailures < 1:
		return fmt.Errorf("circuit.consecutive_failures: %d is below 1", c.ConsecutiveFailures)
	case c.MinSamples < 1:
		return fmt.Errorf("circuit.min_samples: %d is below 1", c.MinSamples)
	case c.Window < 0:
		return errors.New("circuit.window: must be positive")
	case c.Window < caddy.Duration(health.MinWindow):
		return fmt.Errorf("circuit.window: %s is shorter than %s", time.Duration(c.Window), health.MinWindow)
	case c.OpenFor < 0:
		return errors.New("circuit.open_for: must be positive")
	case c.MaxOpenFor < c.OpenFor:
		return fmt.Errorf("circuit.max_open_for: %s is shorter than open_for (%s)", time.Duration(c.MaxOpenFor), time.Duration(c.OpenFor))
	}
	for _, s := range []struct {
		name  string
		value float64
	}{{"min_success_rate", *c.MinSuccessRate}, {"max_ejected", *c.MaxEjected}, {"panic_below", *c.PanicBelow}} {
		if !words.IsShare(s.value) {
			return fmt.Errorf("circuit.%s: %v is not between 0 and 1", s.name, s.value)
		}
	}
	return nil
}
