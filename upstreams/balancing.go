package upstreams

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/settings"
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
	settings.Default(&out.Retries, 2)
	settings.Default(&out.TryDuration, caddy.Duration(15*time.Second))
	settings.Default(&out.AttemptTimeout, caddy.Duration(5*time.Second))
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
