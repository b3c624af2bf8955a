package egress

import (
	"context"
	"net"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
)

// acquire gets a connection for an exchange: an idle one that passes the access
// rules of this request, or a new one. With fresh, only a new one.
func (t *request) acquire(fresh bool) (*origin.Lease, error) {
	if err := t.hold(); err != nil {
		return nil, err
	}
	return t.get(t.p.pool.Pool, t.poolKey(), connpool.Request[*origin.Conn]{By: (*originRequest)(t)}, fresh)
}

// Key is what direct connections for this request are pooled by: they lead to
// its origin, and come from where its own would.
func (t *request) poolKey() origin.Key {
	return origin.Key{TLS: t.https, Host: t.target.Host, Port: t.target.Port, Slot: t.slot, From: t.route.direct.ID}
}

// get takes a connection from a pool: one that suits the request, or, with fresh,
// a new one.
func (t *request) get(pool *connpool.Pool[origin.Key, *origin.Conn], key origin.Key, req connpool.Request[*origin.Conn], fresh bool) (*origin.Lease, error) {
	switch {
	case fresh:
		req.MaxIdle = -1
	case !retry.Idempotent(t.r.Method):
		req.MaxIdle = t.p.unsafeIdle
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
type originRequest request

// Dial implements connpool.Requester.
func (t *originRequest) Dial(ctx context.Context) (*origin.Conn, error) {
	conn, err := t.route.direct.dial(dial.WithSlot(ctx, t.slot), t.target, t.https)
	if err != nil {
		return nil, err
	}
	addr := dial.RemoteAddr(conn)
	return &origin.Conn{Conn: t.p.h1Conn(conn), Addr: addr, Self: t.p.direct.Self.IsSelf(addr, t.target.Port)}, nil
}

// h1Conn is HTTP/1.1 on a new connection.
func (p *proxy) h1Conn(conn net.Conn) *h1.Conn {
	c := h1.NewConn(conn)
	if !c.CanBeLookedAt() {
		p.sayUnknown(conn, "it carries one exchange and is not reused")
	}
	return c
}

// Accept implements connpool.Requester.
func (t *originRequest) Accept(c *origin.Conn) bool { return t.p.accepts(c, t.target) }

// accepts reports whether the rules of this handler allow a pooled connection,
// which a request with other rules may have opened.
func (p *proxy) accepts(c *origin.Conn, dest target.Target) bool {
	rules := p.access.Now()
	return rules.CheckAddr(dest, c.Addr) == nil && (!c.Self || rules.OpensSelf(c.Addr, dest.Port))
}

// Interface guards
var (
	_ caddy.Destructor                 = (*origin.Pool)(nil)
	_ connpool.Requester[*origin.Conn] = (*originRequest)(nil)
)
