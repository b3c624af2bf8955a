package origin

import (
	"net/netip"
	"sync/atomic"
	"time"
	"unique"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/holdings"
	"github.com/caddy-egress/egress/internal/shared"
)

// Key is what connections are pooled by. Access rules are no part of it:
// the address of a pooled connection is checked against the rules of the
// request that takes it.
type Key struct {
	TLS  bool   // towards the origin
	Host string // of the origin; empty for a parent that is spoken to in absolute form
	Port uint16
	Slot uint32                // of sources that are kept apart by user
	From unique.Handle[string] // where a route leaves in a way of its own
}

// InAbsoluteForm tells connections to a parent that is spoken to in absolute form.
func (k *Key) InAbsoluteForm() bool { return k.Port == 0 }

// Pool holds connections to origins. It lives in a caddy.UsagePool, so
// that a reload which leaves the transport as it is keeps its connections.
type Pool struct {
	*connpool.Pool[Key, *Conn]
	clients *holdings.Counter[string] // by IP address; nil where there is no limit
	users   *holdings.Counter[string] // nil where there is no limit
	limits  Limits
	gone    atomic.Bool
}

// New makes a pool. perClient and perUser are how many requests one client, and
// one user, may have under way over its connections; 0 is no limit.
func New(cfg connpool.Config, perClient, perUser int) *Pool {
	p := &Pool{Pool: connpool.New[Key, *Conn](cfg)}
	p.limits = Limits{
		Conns: cfg.MaxConns, ConnsPerHost: cfg.MaxConnsPerKey,
		Pending: cfg.MaxPending, PendingPerHost: cfg.MaxPendingPerKey,
		PerClient: perClient, PerUser: perUser,
	}
	if perClient > 0 {
		p.clients = holdings.New[string](perClient)
	}
	if perUser > 0 {
		p.users = holdings.New[string](perUser)
	}
	return p
}

// Limits are those of a pool; 0 is none, but of Pending and PendingPerHost, where nobody
// waits then.
type Limits struct {
	Conns, ConnsPerHost     int // connections
	Pending, PendingPerHost int // requests that wait for one
	PerClient, PerUser      int // requests under way or waiting
}

// Limits are those that the pool was made with.
func (p *Pool) Limits() Limits { return p.limits }

// Retired reports whether no configuration uses the pool any more.
func (p *Pool) Retired() bool { return p.gone.Load() }

// Conn is a pooled connection with what a request that takes it must
// know.
type Conn struct {
	*h1.Conn
	Addr netip.Addr // that was dialed
	Self bool       // a listener of this process was there at that time
	Told netip.Addr // of the destination, that an upstream was told instead of a name

	// Trust is what it was given back on the strength of; nil where it can be used again
	// whatever becomes of that. It belongs to who has the connection.
	Trust *Trust

	Since time.Time // when it was dialed, where it has waited since; zero for one that was dialed for the request

	Recorder Recorder // of who has dialed it; nil for none
}

// Recorder is told what becomes of pooled connections on one way out. It outlives
// configurations and pools, and holds nothing of them.
type Recorder interface {
	// Dialed tells of a dial that has ended, with err if with any.
	Dialed(err error)
	// Closed tells of a connection that the pool closes.
	Closed(reason connpool.Reason)
}

// ClosedFor is what connpool tells.
func (c *Conn) ClosedFor(reason connpool.Reason) {
	if c.Recorder != nil {
		c.Recorder.Closed(reason)
	}
}

// Waited is how long the connection had been idle when it came into the pool: what
// connpool asks.
func (c *Conn) Waited() time.Duration {
	if c.Since.IsZero() {
		return 0
	}
	return time.Since(c.Since)
}

// Destruct retires the pool when no configuration uses it any more: nothing stays
// idle in it. It is not closed, because requests of the old configuration may
// still be under way, and may still need a connection.
func (p *Pool) Destruct() error {
	p.gone.Store(true)
	p.Retire()
	return nil
}

// Shared are the pools by the settings that matter to them.
var Shared = shared.NewPool[*Pool]()

// Lease is a connection that was taken from a pool, until it is given back.
type Lease = connpool.Lease[Key, *Conn]
