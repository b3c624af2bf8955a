package egress

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains a member: an upstream proxy with the settings of one
// configuration, beside the state that outlives it.

// member is an upstream proxy of a group.
type member struct {
	group  *group
	spec   *upstreamSpec
	name   string     // for people: the URL without credentials
	fields []h1.Field // told the upstream beside a request
	key    uint64
	health *upstreamHealth
	conns  *upstreamConns
	ref    health.Member

	connsUse  *shared.Use[*upstreamConns]
	healthUse *shared.Use[*upstreamHealth]
}

// memberFactory makes the members of a group.
type memberFactory struct {
	group     *group
	h         *Handler
	ctx       caddy.Context
	transport string // identity of the settings that hold for upstreams as well, resolvers with their certificates included
	tls       map[*reverseproxy.TLSConfig]*madeTLS
}

// madeTLS is a TLS configuration of the operator as crypto/tls takes it. Loading
// its modules empties the JSON, so each is made once.
type madeTLS struct {
	id     string // of the settings, and of what was in the files that they name
	config *tls.Config
}

func (h *Handler) newMemberFactory(ctx caddy.Context, g *group) (*memberFactory, error) {
	f := &memberFactory{group: g, h: h, ctx: ctx, transport: shared.Digest(h.poolUse.Key, h.namesUse.Key), tls: make(map[*reverseproxy.TLSConfig]*madeTLS)}
	if g.cfg.TLS != nil {
		if _, err := f.makeTLS(g.cfg.TLS); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *memberFactory) makeTLS(c *reverseproxy.TLSConfig) (*madeTLS, error) {
	if made := f.tls[c]; made != nil {
		return made, nil
	}
	made := &madeTLS{config: new(tls.Config)}
	if c != nil {
		settings, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		config, err := c.MakeTLSClientConfig(f.ctx)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		if config != nil {
			made.config = config
		}
		made.id = string(settings) + shared.TLSIdentity(made.config)
	}
	made.config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	f.tls[c] = made
	return made, nil
}

// member makes a member, or takes up the state that one of the same identity has
// left. It is called with the lock of the group held.
func (f *memberFactory) member(s *upstreamSpec, healthID string) (*member, error) {
	m := &member{group: f.group, spec: s, name: s.addr.String(), key: hashKey(healthID), fields: s.proxyFields()}
	var made *madeTLS
	tlsID := ""
	if s.addr.Scheme == upstream.HTTPS {
		var err error
		if made, err = f.makeTLS(s.tls); err != nil {
			return nil, err
		}
		tlsID = made.id
	}
	var err error
	m.connsUse, err = upstreamPools.Use(s.connsID(f.group.name, f.transport, tlsID), func() (*upstreamConns, error) {
		return f.connect(s, made)
	})
	if err != nil {
		return nil, err
	}
	m.healthUse, err = upstreamHealths.Use(healthID, func() (*upstreamHealth, error) { return new(upstreamHealth), nil })
	if err != nil {
		_ = m.connsUse.Release()
		return nil, err
	}
	m.conns, m.health = m.connsUse.Value, m.healthUse.Value
	m.ref = health.Member{Upstream: &m.health.Upstream, Priority: s.Priority, Value: m}
	if f.group.cfg.checked() {
		m.health.checking.Add(1)
	}
	if f.group.events.started.Load() {
		m.start()
	}
	return m, nil
}

// start lets connections be dialed ahead, if any are wanted.
func (m *member) start() { m.conns.dialer.SetUp(m.health.Available()) }

// release gives the state back. What is under way through the member goes on.
func (m *member) release() {
	if m.group.cfg.checked() {
		if t, last := m.health.endChecks(); last && t.Upstream != nil {
			m.conns.dialer.SetUp(t.To.InRotation())
		}
	}
	_, _ = m.connsUse.Release(), m.healthUse.Release()
}

// same reports whether nothing about an upstream has changed.
func (s *upstreamSpec) same(t *upstreamSpec) bool { return reflect.DeepEqual(s, t) }

func hashKey(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64()
}

// connect makes the connections of an upstream: none is opened yet, but for those
// on standby.
func (f *memberFactory) connect(s *upstreamSpec, made *madeTLS) (*upstreamConns, error) {
	c := &upstreamConns{lookup: f.h.dialer.ForUpstreams().LookupUnchecked}
	var err error
	if c.dial, err = f.dialFunc(s, c); err != nil {
		return nil, err
	}
	cfg := proxydial.Config{
		Scheme:            proxydial.Scheme(s.addr.Scheme),
		Dial:              c.dial,
		MaxTunnelsPerConn: s.MaxTunnelsPerConn,
		ProxyProtocol:     map[string]int{"v1": 1, "v2": 2}[s.ProxyProtocol],
	}
	if s.credentials != nil {
		cfg.Authenticate, cfg.User, cfg.Password = true, s.credentials.Username, s.credentials.Password
	}
	for name, values := range s.Header {
		for _, v := range values {
			cfg.Header = append(cfg.Header, h1.Field{Name: name, Value: v})
		}
	}
	if made != nil {
		cfg.TLS = made.config.Clone()
		if cfg.TLS.ServerName == "" {
			cfg.TLS.ServerName = s.addr.Host
		}
		if s.tls != nil {
			cfg.TLSTimeout = time.Duration(s.tls.HandshakeTimeout)
		}
		if cfg.TLS.ServerName == "" && !cfg.TLS.InsecureSkipVerify {
			return nil, errors.New("tls.server_name: a unix socket needs one")
		}
	}
	if c.dialer, err = proxydial.New(cfg); err != nil {
		return nil, err
	}
	pool := f.h.transport.poolConfig()
	pool.MaxConnsPerKey, pool.MaxConns, pool.MaxPendingPerKey = 0, max(s.MaxConns, 0), 0
	pool.MaxPending = max(s.MaxPending, 0)
	if pool.MaxConns == 0 {
		pool.MaxPending = 1 << 30 // nobody waits but for the dials of others
	}
	pool.MaxPendingPerKey = pool.MaxPending
	pool.Shards = 1
	c.pool = origin.New(pool, 0, 0)
	if f.h.dry {
		return c, nil
	}
	return c, c.dialer.Standby(s.Standby)
}

// dialFunc connects to the address of an upstream, and tells c where from. It must not
// hold on to the handler: the connections outlive its configuration.
func (f *memberFactory) dialFunc(s *upstreamSpec, c *upstreamConns) (func(context.Context) (net.Conn, error), error) {
	if s.addr.Socket != "" {
		path, here := s.addr.Socket, f.h.dialer.Self
		return func(ctx context.Context) (net.Conn, error) {
			if here.OwnsPath(path) {
				return nil, fmt.Errorf("%w: this server listens on %s", failure.Loop, path)
			}
			d := net.Dialer{Control: descriptors.KeepReserve}
			conn, err := d.DialContext(ctx, "unix", path)
			if err != nil && descriptors.MakeRoom(err) {
				return d.DialContext(ctx, "unix", path)
			}
			return conn, err
		}, nil
	}
	d, err := f.h.dialer.ForUpstreams().Leaving(s.PreferIP, s.LocalAddresses, s.LocalAddressPick, s.Interface)
	if err != nil {
		return nil, err // of itself it was checked, but not beside the transport
	}
	if s.hasSource() {
		f.h.warnAboutSources(d.Sources)
	}
	c.from = d.Sources
	host, port := s.addr.Host, s.addr.Port
	return func(ctx context.Context) (net.Conn, error) {
		return d.DialUpstream(ctx, host, port)
	}, nil
}

// full reports whether the member cannot take another request for its limits.
func (m *member) full() bool { return m.fullForExchange() || m.fullForTunnel() }

func (m *member) fullForTunnel() bool {
	return m.spec.MaxTunnels > 0 && m.health.Tunnels() >= int64(m.spec.MaxTunnels)
}

func (m *member) fullForExchange() bool {
	return m.spec.MaxConns > 0 && m.health.Exchanges() >= int64(m.spec.MaxConns+max(m.spec.MaxPending, 0))
}

// startTunnel takes a slot for a tunnel, if there is one.
func (m *member) startTunnel() bool {
	if m.spec.MaxTunnels <= 0 {
		m.health.StartTunnel()
		return true
	}
	m.health.slots.Lock() // or two could refuse each other the last one
	defer m.health.slots.Unlock()
	if m.fullForTunnel() {
		return false
	}
	m.health.StartTunnel()
	return true
}

// Key implements Member.
func (m *member) Key() uint64 { return m.key }

// Weight implements Member.
func (m *member) Weight() int { return m.spec.Weight }

// Factor implements Member.
func (m *member) Factor() float64 { return m.health.Factor(time.Now(), m.group.health.Config()) }

// InFlight implements Member.
func (m *member) InFlight() int { return int(m.health.InFlight()) }

// Latency implements Member.
func (m *member) Latency() time.Duration { return m.health.Latency(time.Now()) }

// forExchange and forTunnel are a member as requests of these kinds see it: they
// have different limits.
type (
	forExchange struct{ *member }
	forTunnel   struct{ *member }
)

// Available implements Member. The members that are given to a policy are in
// rotation; what is left are their limits.
func (m forExchange) Available() bool { return !m.fullForExchange() }

// Available implements Member.
func (m forTunnel) Available() bool { return !m.fullForTunnel() }

// clientAddrs are the addresses that a PROXY protocol header tells: that of the client
// as Caddy's {client_ip} has it, with a port where that is also who has connected, and
// the one that it has connected to, where both are of one family.
func (t *transaction) clientAddrs() proxydial.Client {
	var c proxydial.Client
	addr, ok := t.clientAddr()
	if !ok {
		return c
	}
	c.Source = parseAddrPort(t.r.RemoteAddr)
	if c.Source.Addr() != addr {
		c.Source = netip.AddrPortFrom(addr, 0)
	}
	if local, _ := t.r.Context().Value(http.LocalAddrContextKey).(net.Addr); local != nil {
		if to := parseAddrPort(local.String()); to.Addr().Is4() == addr.Is4() {
			c.Destination = to
		}
	}
	return c
}

func parseAddrPort(s string) netip.AddrPort {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Interface guards
var (
	_ selection.Member = forExchange{}
	_ selection.Member = forTunnel{}
)
