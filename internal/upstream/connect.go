package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/timing"
	"github.com/caddy-egress/egress/internal/tracing"
)

// connect makes the connections of an upstream: none is opened yet, but for those
// on standby.
func (g *Group) connect(s *Spec) (*Conns, error) {
	c := &Conns{tell: g.cfg.Dialer.ForUpstreams().TellUnchecked}
	var err error
	if c.dial, err = g.dialFunc(s, c); err != nil {
		return nil, err
	}
	cfg := proxydial.Config{
		Scheme:            proxydial.Scheme(s.Addr.Scheme),
		Dial:              c.dial,
		MaxTunnelsPerConn: s.MaxTunnelsPerConn,
		ProxyProtocol:     map[string]int{"v1": 1, "v2": 2}[s.ProxyProtocol],
	}
	if s.Login != nil {
		cfg.Authenticate, cfg.User, cfg.Password = true, s.Login.User, s.Login.Password
	}
	for name, values := range s.Header {
		for _, v := range values {
			cfg.Header = append(cfg.Header, h1.Field{Name: name, Value: v})
		}
	}
	if s.TLS != nil {
		cfg.TLS, cfg.TLSTimeout, cfg.Sessions = s.TLS.Config.Clone(), s.TLS.HandshakeTimeout, dial.Sessions
		if cfg.TLS.ServerName == "" {
			cfg.TLS.ServerName = s.Addr.Host
		}
		if cfg.TLS.ServerName == "" && !cfg.TLS.InsecureSkipVerify {
			return nil, errors.New("tls.server_name: a unix socket needs one")
		}
	}
	if c.Dialer, err = proxydial.New(cfg); err != nil {
		return nil, err
	}
	pool := g.cfg.Pool
	pool.MaxConnsPerKey, pool.MaxConns, pool.MaxPendingPerKey = 0, max(s.MaxConns, 0), 0
	pool.MaxPending = max(s.MaxPending, 0)
	if pool.MaxConns == 0 {
		pool.MaxPending = 1 << 30 // nobody waits but for the dials of others
	}
	pool.MaxPendingPerKey = pool.MaxPending
	pool.Shards = 1
	c.Pool = origin.New(pool, 0, 0)
	return c, c.Dialer.Standby(s.Standby)
}

// dialSocket connects to a unix socket, as a span.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	ctx, span := tracing.Start(ctx, "egress.dial")
	defer span.End()
	span.Set(tracing.PeerAddress, path)
	began := time.Now()
	d := net.Dialer{Control: descriptors.KeepReserve}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil && descriptors.MakeRoom(err) {
		conn, err = d.DialContext(ctx, "unix", path)
	}
	timing.Of(ctx).Since(timing.Connect, began, err == nil)
	if err != nil && span.On() {
		span.Fail(cmp.Or(failure.Of(err).Type, tracing.Canceled))
	}
	return conn, err
}

// dialFunc connects to the address of an upstream, and tells c where from. It must not
// hold on to the group: the connections outlive its configuration.
func (g *Group) dialFunc(s *Spec, c *Conns) (func(context.Context) (net.Conn, error), error) {
	if s.Addr.Socket != "" {
		path, here := s.Addr.Socket, g.cfg.Dialer.Self
		c.here = func(context.Context) bool { return true }
		return func(ctx context.Context) (net.Conn, error) {
			if here.OwnsPath(path) {
				return nil, fmt.Errorf("%w: this server listens on %s", failure.Loop, path)
			}
			return dialSocket(ctx, path)
		}, nil
	}
	d, err := g.cfg.Dialer.ForUpstreams().Leaving(s.PreferIP, s.LocalAddresses, s.LocalAddressPick, s.Interface)
	if err != nil {
		return nil, err // of itself it was checked, but not beside the transport
	}
	if s.HasSource() {
		g.cfg.WarnOfSources(d.Sources)
	}
	c.From = d.Sources
	host, port := s.Addr.Host, s.Addr.Port
	c.here = func(ctx context.Context) bool { return d.IsHere(ctx, host) }
	return func(ctx context.Context) (net.Conn, error) {
		return d.DialUpstream(ctx, host, port)
	}, nil
}
