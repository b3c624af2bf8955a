package core

import (
	"context"
	"net"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/target"
)

// Acquire gets a connection for an exchange on the current way out: an idle one that
// passes the access rules of this request, or a new one; with fresh, directly only a new
// one. Through an upstream, one that is asked again gets a new one.
func (t *Request) Acquire(fresh bool) (*origin.Lease, error) {
	if t.Ways.Current.Direct() {
		return t.acquireDirect(fresh)
	}
	fresh, t.again = t.again, false
	l, err := t.acquireVia(fresh)
	if err == nil {
		t.connected()
	}
	return l, err
}

func (t *Request) acquireDirect(fresh bool) (*origin.Lease, error) {
	if err := t.Hold(); err != nil {
		return nil, err
	}
	return t.get(t.Proxy.Pool.Pool, t.PoolKey(), connpool.Request[*origin.Conn]{By: (*originRequest)(t)}, fresh)
}

// PoolKey is what direct connections for this request are pooled by: they lead to
// its origin, and come from where its own would.
func (t *Request) PoolKey() origin.Key {
	return origin.Key{TLS: t.HTTPS, Host: t.Target.Host, Port: t.Target.Port, Slot: t.Slot, From: t.Route.Direct.ID}
}

// get takes a connection from a pool: one that suits the request, or, with fresh,
// a new one.
func (t *Request) get(pool *connpool.Pool[origin.Key, *origin.Conn], key origin.Key, req connpool.Request[*origin.Conn], fresh bool) (*origin.Lease, error) {
	req.MaxIdle = t.maxIdle(fresh)
	start := time.Now()
	l, err := pool.Get(t.context(), key, req)
	if err != nil {
		return nil, err
	}
	t.Outcome.Reused = l.Reused()
	if !l.Reused() {
		t.Outcome.Dial = time.Since(start)
	}
	t.Outcome.Remote = l.Conn().Addr
	t.TracePeer()
	return l, nil
}

// maxIdle is how long a connection may have been idle that the request takes; 0 for any
// time, below for one that was never used.
func (t *Request) maxIdle(fresh bool) time.Duration {
	switch {
	case fresh:
		return -1
	case !retry.Idempotent(t.HTTP.Method):
		return t.Proxy.UnsafeIdle
	}
	return 0
}

// originRequest is a request as the pool sees it. Its dial may still run
// when the request is over: it uses only what no longer changes once the
// request has its route.
type originRequest Request

// Dial implements connpool.Requester.
func (t *originRequest) Dial(ctx context.Context) (c *origin.Conn, err error) {
	defer func() { t.Proxy.dialed("", c, err) }()
	conn, err := t.Route.Direct.Dial(dial.WithSlot(ctx, t.Slot), t.Target, t.HTTPS)
	if err != nil {
		return nil, err
	}
	addr := dial.RemoteAddr(conn)
	return &origin.Conn{Conn: t.Proxy.h1Conn(conn), Addr: addr, Self: t.Proxy.Direct.Self.IsSelf(addr, t.Target.Port)}, nil
}

// Queued is told by the pool.
func (t *originRequest) Queued(d time.Duration) { t.Outcome.Queue += d }

// h1Conn is HTTP/1.1 on a new connection.
func (p *Proxy) h1Conn(conn net.Conn) *h1.Conn {
	c := h1.NewConn(conn)
	if !c.CanBeLookedAt() {
		p.SayUnknown(conn, "it carries one exchange and is not reused")
	}
	return c
}

// Accept implements connpool.Requester.
func (t *originRequest) Accept(c *origin.Conn) bool { return t.Proxy.Accepts(c, t.Target) }

// Accepts reports whether the rules of this handler allow a pooled connection,
// which a request with other rules may have opened.
func (p *Proxy) Accepts(c *origin.Conn, dest target.Target) bool {
	rules := p.Access.Now()
	return rules.CheckAddr(dest, c.Addr) == nil && (!c.Self || rules.OpensSelf(c.Addr, dest.Port))
}

// Interface guards
var (
	_ connpool.Requester[*origin.Conn] = (*originRequest)(nil)
)
