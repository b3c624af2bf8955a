package upstream

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/quantile"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/timing"
)

// This file contains what outlives a configuration: of an upstream proxy its health under
// one name and its connections under another, so that a change of settings that concerns
// only one of them leaves the other; and what is known of a group. (What its sources told is
// in dynamic.go.)

// Health is the health of an upstream in a group: circuit, results of checks, latency,
// counters. It stays as long as address and credentials do.
type Health struct {
	health.Upstream

	identity  identity
	id        atomic.Pointer[string] // what people and programs know it by
	followers followers

	relay relay // what its responses have told of it

	slots    sync.Mutex   // held while a tunnel is counted against a limit
	checking atomic.Int32 // configurations that check it
	openings openings
	unknown  unknown
	counts   counts
	known    time.Time             // since when
	fault    atomic.Pointer[Fault] // the last one; nil for none

	asked   atomic.Bool                                 // somebody has it checked now
	waits   atomic.Pointer[awaited]                     // for the next result; nil for nobody
	timings atomic.Pointer[[timing.Parts]time.Duration] // of the last check; nil before it
}

// unknown is what was charged to an upstream whose own name could not be looked up.
type unknown struct {
	mu       sync.Mutex
	question *dnscache.Question // guarded by mu
	at       time.Time          // guarded by mu
}

// charge reports whether a question that has failed is charged: once, whoever waited for
// its answer. Where that is remembered for longer than a failure is, as that there is no
// such name, it is charged again.
func (u *unknown) charge(q *dnscache.Question, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if q == u.question && now.Sub(u.at) < dnscache.FailureTTL {
		return false
	}
	u.question, u.at = q, now
	return true
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

func newHealth(of account, healthID string) *Health {
	h := &Health{known: time.Now()}
	h.enter(of, healthID)
	return h
}

// Destruct forgets it.
func (h *Health) Destruct() error {
	h.leave()
	return nil
}

// Conns are the connections to an upstream: pooled ones for exchanges, and those of its
// dialer for tunnels. They stay as long as every setting does that matters to them.
type Conns struct {
	Pool   *origin.Pool      // for exchanges
	Dialer *proxydial.Dialer // for tunnels
	From   *dial.Sources     // that they leave from; nil for a unix socket

	dial func(context.Context) (net.Conn, error)       // to the upstream's address
	here func(context.Context) bool                    // it runs on this machine
	tell func(target.Target, *dial.Through) *dial.Told // of a target of checks

	through dial.Through // what is known of what the upstream reaches
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

// State is what is known of a group with these members. The zero value knows nothing. It is
// safe for concurrent use.
type State struct {
	connect quantile.Estimator // of the time it takes to connect through the group, for hedging
}
