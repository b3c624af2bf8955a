package upstream

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/quantile"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains what outlives a configuration: of an upstream proxy its health under
// one name and its connections under another, so that a change of settings that concerns
// only one of them leaves the other; and what is known of a group.

// Health is the health of an upstream in a group: circuit, results of checks, latency,
// counters. It stays as long as address and credentials do.
type Health struct {
	health.Upstream

	slots    sync.Mutex   // held while a tunnel is counted against a limit
	checking atomic.Int32 // configurations that check it
	openings openings
	single   atomic.Bool // its connections carry one exchange each (see RelaysOn)
}

// endChecks is called when a configuration that checked the upstream lets it go.
// Without any that does, the last results mean nothing any more: one that was down
// would stay down for ever.
func (h *Health) endChecks() (t health.Transition, last bool) {
	if h.checking.Add(-1) > 0 {
		return t, false
	}
	return h.ForgetChecks(), true
}

// Destruct forgets it.
func (*Health) Destruct() error { return nil }

// Conns are the connections to an upstream: pooled ones for exchanges, and those of its
// dialer for tunnels. They stay as long as every setting does that matters to them.
type Conns struct {
	Pool   *origin.Pool      // for exchanges
	Dialer *proxydial.Dialer // for tunnels
	From   *dial.Sources     // that they leave from; nil for a unix socket

	dial   func(context.Context) (net.Conn, error) // to the upstream's address
	lookup func(context.Context, string) (netip.Addr, error)
}

// Destruct lets go of what is idle when no configuration uses the upstream any
// more. What is under way finishes.
func (c *Conns) Destruct() error {
	c.Dialer.Retire()
	return c.Pool.Destruct()
}

// What is kept of upstreams in this process, by the settings that matter.
var (
	SharedHealth = shared.NewPool[*Health]()
	SharedConns  = shared.NewPool[*Conns]()
)

// State is what is known of a group. The zero value knows nothing. It is safe for
// concurrent use.
type State struct {
	connect quantile.Estimator        // of the time it takes to connect through the group, for hedging
	source  atomic.Pointer[[]Address] // what the dynamic source of the group told last
}
