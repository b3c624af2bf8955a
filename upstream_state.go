package egress

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
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what outlives a configuration of an upstream proxy: its
// health under one name, its connections under another, so that a change of
// settings that concerns only one of them leaves the other.

// upstreamHealth is the health of an upstream in a group: circuit, results of
// checks, latency, counters. It stays as long as address and credentials do.
type upstreamHealth struct {
	health.Upstream

	slots    sync.Mutex   // held while a tunnel is counted against a limit
	checking atomic.Int32 // configurations that check it
	openings upstream.Openings
	single   atomic.Bool // its connections carry one exchange each (see RelaysOn)
}

// endChecks is called when a configuration that checked the upstream lets it go.
// Without any that does, the last results mean nothing any more: one that was down
// would stay down for ever.
func (h *upstreamHealth) endChecks() (t health.Transition, last bool) {
	if h.checking.Add(-1) > 0 {
		return t, false
	}
	return h.ForgetChecks(), true
}

// Destruct forgets it.
func (*upstreamHealth) Destruct() error { return nil }

// upstreamConns are the connections to an upstream: pooled ones for exchanges,
// and those of its dialer for tunnels. They stay as long as every setting does
// that matters to them.
type upstreamConns struct {
	pool   *origin.Pool
	dialer *proxydial.Dialer
	dial   func(context.Context) (net.Conn, error) // to the upstream's address
	from   *dial.Sources                           // that dial leaves from
	lookup func(context.Context, string) (netip.Addr, error)
}

// Destruct lets go of what is idle when no configuration uses the upstream any
// more. What is under way finishes.
func (c *upstreamConns) Destruct() error {
	c.dialer.Retire()
	return c.pool.Destruct()
}

var (
	upstreamHealths = shared.NewPool[*upstreamHealth]()
	upstreamPools   = shared.NewPool[*upstreamConns]()
)

// healthID names the health of an upstream in a group.
func (s *upstreamSpec) healthID(group string) string {
	return shared.Digest(group, s.addr.String(), s.credentials, s.ProxyProtocol)
}

// connsID names its connections. transport are the settings by which origins are
// reached, most of which hold for upstreams as well.
func (s *upstreamSpec) connsID(group, transport, tls string) string {
	return shared.Digest(group, transport, s.addr.String(), s.credentials, s.ProxyProtocol, s.LocalAddresses, s.LocalAddressPick, s.Interface, s.PreferIP,
		s.Header, s.MaxConns, s.MaxPending, s.MaxTunnelsPerConn, s.Standby, tls)
}
