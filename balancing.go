package egress

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the settings of a group about the choice of a member, and
// about when a member is out.

// LoadBalancing says which member of a group a request takes, and what happens
// when that one fails. The next member is tried only as long as the client has
// been sent nothing, and as the request may be repeated: CONNECT always, and what
// has not left yet; otherwise idempotent requests, once.
type LoadBalancing struct {
	// SelectionPolicyRaw chooses the member. Default: `p2c_ewma`.
	SelectionPolicyRaw json.RawMessage `json:"selection_policy,omitempty" caddy:"namespace=http.egress.selection_policies inline_key=policy"`

	// Retries is how many more members are tried. That a member is asked again
	// over a fresh connection, since a pooled one had been closed, does not
	// count. Default: 2; -1: none.
	Retries int `json:"retries,omitempty"`

	// TryDuration is the time from the start of the request in which another
	// attempt may begin. An exchange of which an upstream lets nothing be heard is
	// given up after the response_header_timeout of the transport: it is sent
	// elsewhere only if that is shorter. Default: 15s.
	TryDuration caddy.Duration `json:"try_duration,omitempty"`

	// TryInterval is the pause before another attempt. Default: none.
	TryInterval caddy.Duration `json:"try_interval,omitempty"`

	// AttemptTimeout bounds each attempt until the path stands: connecting
	// to the upstream, TLS, and for tunnels its answer to CONNECT.
	// Default: 5s.
	AttemptTimeout caddy.Duration `json:"attempt_timeout,omitempty"`

	// RetryBudget is the share of the requests in flight that may be retries,
	// beyond the first retry of each, which is free. At least 3 may be at any
	// time. From 0 to 1. Default: 0.2.
	RetryBudget *float64 `json:"retry_budget,omitempty"`

	// Hedge starts a second attempt of a tunnel through another member, beside
	// the first, when that has taken longer than this quantile of the last
	// times to connect (0.95: only one in twenty takes as long); the one that
	// stands first is used. That one is overtaken is not held against it, so that
	// without active checks a member that hangs stays in rotation. Hedges are
	// retries of the budget, of which none is free. Above 0.5 and below 1. Default: off.
	Hedge float64 `json:"hedge,omitempty"`
}

// maxRetries bounds LoadBalancing.Retries.
const maxRetries = 100

func (l *LoadBalancing) withDefaults() LoadBalancing {
	out := LoadBalancing{}
	if l != nil {
		out = *l
	}
	setDefault(&out.Retries, 2)
	setDefault(&out.TryDuration, caddy.Duration(15*time.Second))
	setDefault(&out.AttemptTimeout, caddy.Duration(5*time.Second))
	if out.RetryBudget == nil {
		share := 0.2
		out.RetryBudget = &share
	}
	return out
}

func (l *LoadBalancing) validate() error {
	switch {
	case l.Retries < words.NoLimit || l.Retries > maxRetries:
		return fmt.Errorf("load_balancing.retries: %d is not between 1 and %d (-1 is off)", l.Retries, maxRetries)
	case l.TryDuration < 0:
		return fmt.Errorf("load_balancing.try_duration: %s is not positive", time.Duration(l.TryDuration))
	case l.TryInterval < 0:
		return fmt.Errorf("load_balancing.try_interval: %s is not positive", time.Duration(l.TryInterval))
	case l.AttemptTimeout < 0:
		return fmt.Errorf("load_balancing.attempt_timeout: %s is not positive", time.Duration(l.AttemptTimeout))
	case !words.IsShare(*l.RetryBudget):
		return fmt.Errorf("load_balancing.retry_budget: %v is not between 0 and 1", *l.RetryBudget)
	case l.Hedge != 0 && !(l.Hedge > 0.5 && l.Hedge < 1):
		return fmt.Errorf("load_balancing.hedge: %v is not above 0.5 and below 1", l.Hedge)
	}
	return nil
}

// engine is what the settings mean for a group.
func (l *LoadBalancing) engine() upstream.Balancing {
	return upstream.Balancing{
		Retries: l.Retries, RetryBudget: *l.RetryBudget,
		TryDuration: time.Duration(l.TryDuration), TryInterval: time.Duration(l.TryInterval),
		AttemptTimeout: time.Duration(l.AttemptTimeout), Hedge: l.Hedge,
	}
}

// UpstreamCircuit is the passive health of upstreams: what requests meet on
// their way. A member is charged only with what is its own fault (see docs/health.md
// for the table): a destination that is dead, a refusal by policy and a
// client that leaves never count.
type UpstreamCircuit struct {
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

func (c *UpstreamCircuit) withDefaults() UpstreamCircuit {
	out := UpstreamCircuit{}
	if c != nil {
		out = *c
	}
	setDefault(&out.ConsecutiveFailures, 5)
	setDefault(&out.Window, caddy.Duration(30*time.Second))
	setDefault(&out.MinSamples, 20)
	setDefault(&out.OpenFor, caddy.Duration(10*time.Second))
	setDefault(&out.MaxOpenFor, max(caddy.Duration(5*time.Minute), out.OpenFor))
	for _, share := range []**float64{&out.MinSuccessRate, &out.MaxEjected, &out.PanicBelow} {
		if *share == nil {
			half := 0.5
			*share = &half
		}
	}
	return out
}

func (c *UpstreamCircuit) validate() error {
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
