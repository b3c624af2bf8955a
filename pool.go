package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/target"
)

// poolID names the settings that a pool belongs to, beside what was in the files that
// they name.
func (t *Transport) poolID() (string, error) { return shared.DigestOf(t) }

// provisionTransport builds pool and dialer.
func (h *Handler) provisionTransport(ctx caddy.Context) error {
	t := h.Transport.withDefaults()
	if err := t.validate(); err != nil {
		return err
	}
	id, err := t.poolID() // before TLS modules are loaded, which empties their JSON
	if err != nil {
		return err
	}
	if err := h.acquireDirect(&t); err != nil {
		return err
	}
	tlsConfig, err := t.TLS.MakeTLSClientConfig(ctx)
	if err != nil {
		return fmt.Errorf("transport.tls: %w", err)
	}
	if tlsConfig == nil {
		tlsConfig = new(tls.Config)
	}
	id = shared.Digest(id, shared.TLSIdentity(tlsConfig))
	tlsConfig.NextProtos = []string{"http/1.1"}
	tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1024)

	local, err := t.localSources()
	if err != nil {
		return err
	}
	if h.namesUse, err = t.provisionResolver(ctx, local); err != nil {
		return err
	}
	h.names = h.namesUse.Value
	h.poolUse, err = origin.Shared.Use(id, func() (*origin.Pool, error) { return origin.New(t.poolConfig(), t.MaxPerClient, t.MaxPerUser), nil })
	if err != nil {
		return err
	}
	h.pool = h.poolUse.Value
	h.transport = t
	here := self.New(self.Config{Admin: h.adminAddresses, Usage: caddy.ListenerUsage, Active: activeConfig})
	for _, host := range serverHosts(ctx) {
		here.ListensOn(host)
	}
	h.dialer = &directWay{circuits: h.destinations, Dialer: &dial.Dialer{
		Access:        h.access,
		Self:          here,
		Timeout:       time.Duration(t.DialTimeout),
		FallbackDelay: time.Duration(t.FallbackDelay),
		TLSTimeout:    time.Duration(t.TLS.HandshakeTimeout),
		TLSConfig:     tlsConfig,
		Names:         h.names,
		Order:         dial.Orders[t.PreferIP],
		Sources:       local,
		DialAddr:      dial.ToAddr,
	}}
	h.warnAboutSources(local)
	return nil
}

// releaseTransport gives back what of the pool, the names and the direct path was
// acquired.
func (h *Handler) releaseTransport() error {
	errs := []error{h.direct.Release(), h.poolUse.Release(), h.namesUse.Release()}
	h.direct, h.poolUse, h.namesUse = nil, nil, nil
	for _, r := range h.Routes {
		if r != nil {
			errs = append(errs, r.path.Release())
			r.path = nil
		}
	}
	return errors.Join(errs...)
}

// acquire gets a connection for an exchange: an idle one that passes the access
// rules of this request, or a new one. With fresh, only a new one.
func (t *transaction) acquire(fresh bool) (*origin.Lease, error) {
	if err := t.hold(); err != nil {
		return nil, err
	}
	return t.get(t.h.pool.Pool, t.poolKey(), connpool.Request[*origin.Conn]{By: (*originRequest)(t)}, fresh)
}

// Key is what direct connections for this request are pooled by: they lead to
// its origin, and come from where its own would.
func (t *transaction) poolKey() origin.Key {
	return origin.Key{TLS: t.https, Host: t.target.Host, Port: t.target.Port, Slot: t.slot, From: t.route.dialer.ID}
}

// get takes a connection from a pool: one that suits the request, or, with fresh,
// a new one.
func (t *transaction) get(pool *connpool.Pool[origin.Key, *origin.Conn], key origin.Key, req connpool.Request[*origin.Conn], fresh bool) (*origin.Lease, error) {
	switch {
	case fresh:
		req.MaxIdle = -1
	case !retry.Idempotent(t.r.Method):
		req.MaxIdle = t.h.transport.unsafeIdle()
	}
	start := time.Now()
	l, err := pool.Get(t.r.Context(), key, req)
	if err != nil {
		return nil, err
	}
	t.out.reused = l.Reused()
	if !l.Reused() {
		t.out.dial = time.Since(start)
	}
	t.out.remote = l.Conn().Addr
	return l, nil
}

// originRequest is a transaction as the pool sees it. Its dial may still run
// when the transaction is over: it uses only what no longer changes once the
// request has its route.
type originRequest transaction

// Dial implements connpool.Requester.
func (t *originRequest) Dial(ctx context.Context) (*origin.Conn, error) {
	conn, err := t.route.dialer.dial(dial.WithSlot(ctx, t.slot), t.target, t.https)
	if err != nil {
		return nil, err
	}
	addr := dial.RemoteAddr(conn)
	return &origin.Conn{Conn: t.h.h1Conn(conn), Addr: addr, Self: t.h.dialer.Self.IsSelf(addr, t.target.Port)}, nil
}

// h1Conn is HTTP/1.1 on a new connection.
func (h *Handler) h1Conn(conn net.Conn) *h1.Conn {
	c := h1.NewConn(conn)
	if !c.CanBeLookedAt() {
		h.sayUnknown(conn, "it carries one exchange and is not reused")
	}
	return c
}

// Accept implements connpool.Requester.
func (t *originRequest) Accept(c *origin.Conn) bool { return t.h.accepts(c, t.target) }

// accepts reports whether the rules of this handler allow a pooled connection,
// which a request with other rules may have opened.
func (h *Handler) accepts(c *origin.Conn, dest target.Target) bool {
	rules := h.access.Now()
	return rules.CheckAddr(dest, c.Addr) == nil && (!c.Self || rules.OpensSelf(c.Addr, dest.Port))
}

// Interface guards
var (
	_ caddy.Destructor                 = (*origin.Pool)(nil)
	_ connpool.Requester[*origin.Conn] = (*originRequest)(nil)
)
