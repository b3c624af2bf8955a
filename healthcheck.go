package egress

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/settings"
)

// This file contains the health of destinations, and when the checks of upstreams begin,
// whose settings stand in upstreams/checks.go and upstreams/circuit.go.

// DestinationCircuit is the passive health of destinations: a destination that
// cannot be reached several times in a row is given a pause, in which requests
// for it fail at once with 503 and Retry-After instead of waiting for a dial.
// After the pause the next request is the one probe; its result closes the
// circuit or opens it again for longer. One that ends without a result, or has none
// after 30 seconds, opens it again for as long as before, and at least for as long as
// it has waited. Through a group, the tunnel that stands is the result; where the upstream
// is asked in absolute form, nothing tells before the head of the response that the
// destination was reached, and another request may be the probe after a second.
//
// Only what happens before the first byte of the client's request was sent
// counts (resolving, connecting, the TLS handshake): a client that provokes
// resets cannot close a destination for others, and neither can answers like
// 500, refusals by policy, or clients that go away.
//
// Through a group, a destination has a circuit for each member that it has failed
// through. Failures count together; once one circuit is open, the first failure
// through another member opens that one's. Requests pass members over whose circuit
// is open, and are refused where nobody else is left: users of members that a site
// does not serve do not shut out those of others.
//
// A question about a name that fails is charged once, not once for each request that
// waits for its answer or meets the failure while it is remembered.
//
// Each path, directly or through a group, has circuits of its own, and so have routes
// with local addresses, an interface or a prefer_ip of their own, and directly the users
// of each local address with the pick user_hash. A reload keeps them while these settings
// and those that decide what can be reached on the path stay as they are.
type DestinationCircuit struct {
	// Off turns the circuit off: every request dials. Default: false.
	Off bool `json:"off,omitempty"`

	// Failures is how many failures in a row open the circuit.
	// Default: 5. At least 2, since one request alone must not be able to
	// close a destination for others.
	Failures int `json:"failures,omitempty"`

	// Window is the time within which the failures must fall. Default: 30s.
	Window caddy.Duration `json:"window,omitempty"`

	// OpenFor is the first pause. Each further one is 1.6 times as long.
	// Default: 2s.
	OpenFor caddy.Duration `json:"open_for,omitempty"`

	// MaxOpenFor is the longest pause. Default: 30s, or open_for where that is
	// longer.
	MaxOpenFor caddy.Duration `json:"max_open_for,omitempty"`
}

// leastFailures is the lowest DestinationCircuit.Failures.
const leastFailures = 2

// withDefaults returns the settings with their defaults filled in.
func (c *DestinationCircuit) withDefaults() DestinationCircuit {
	out := DestinationCircuit{}
	if c != nil {
		out = *c
	}
	settings.Default(&out.Failures, 5)
	settings.Default(&out.Window, caddy.Duration(30*time.Second))
	settings.Default(&out.OpenFor, caddy.Duration(2*time.Second))
	settings.Default(&out.MaxOpenFor, max(caddy.Duration(30*time.Second), out.OpenFor))
	return out
}

func (c *DestinationCircuit) validate() error {
	switch {
	case c.Failures < leastFailures:
		return fmt.Errorf("destination_circuit.failures: %d is too low: at least %d", c.Failures, leastFailures)
	case c.Window < 0:
		return errors.New("destination_circuit.window: must be positive")
	case c.OpenFor < 0:
		return errors.New("destination_circuit.open_for: must be positive")
	case c.MaxOpenFor < c.OpenFor:
		return fmt.Errorf("destination_circuit.max_open_for: %s is shorter than open_for (%s)",
			time.Duration(c.MaxOpenFor), time.Duration(c.OpenFor))
	}
	return nil
}

// config is what circuits are made of.
func (c *DestinationCircuit) config() health.CircuitConfig {
	return health.CircuitConfig{
		Failures:   c.Failures,
		Window:     time.Duration(c.Window),
		OpenFor:    time.Duration(c.OpenFor),
		MaxOpenFor: time.Duration(c.MaxOpenFor),
	}
}

// startPoll is how often is looked whether the configuration runs, until it does.
const startPoll = 5 * time.Millisecond

// awaitStart begins with the checks once the configuration runs: what they find can be
// emitted from then on, and one that is only validated checks nobody. The events app
// tells the start to those who subscribe, but takes subscriptions without a lock, while
// health checks of reverse_proxy, which begin when they are provisioned, may emit.
func (h *Handler) awaitStart(ctx caddy.Context) {
	app, _ := caddyserver.Of(ctx)
	if app == nil {
		return
	}
	go func() {
		ticker := time.NewTicker(startPoll)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if runs(app) {
				h.events.Start()
				h.startGroups()
				orders.Of.Settle()
				return
			}
		}
	}()
}

// runs reports whether the configuration with an HTTP app is the one that runs.
func runs(app caddy.App) bool {
	running, err := caddy.ActiveContext().AppIfConfigured("http")
	return err == nil && running == any(app)
}

func (h *Handler) startGroups() {
	for _, g := range h.groups {
		g.Start()
	}
}
