package egress

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/origin"
)

// clientConnKey is the context key of a client's connection.
type clientConnKey struct{}

// followPins makes the connections of clients known to their requests, and has the
// pins of each closed when it closes.
func followPins(p *origin.Pins, server *caddyhttp.Server) {
	server.RegisterConnContext(func(ctx context.Context, c net.Conn) context.Context {
		if ctx.Value(clientConnKey{}) != nil {
			return ctx // another handler of the server was first
		}
		return context.WithValue(ctx, clientConnKey{}, c)
	})
	server.RegisterConnState(func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			p.Drop(c)
		}
	})
}

// clientConn is the client's connection, where it carries the requests of one
// client one after another: HTTP/1. It is an identity, never reused by another
// client as addresses are, and nothing else is done with it here.
func (t *transaction) clientConn() net.Conn {
	if t.HTTP.ProtoMajor != 1 {
		return nil
	}
	c, _ := t.HTTP.Context().Value(clientConnKey{}).(net.Conn)
	if c == nil || reflect.TypeOf(c).Kind() != reflect.Pointer {
		return nil // no identity
	}
	return c
}

func (t *transaction) pinUser() origin.User { return origin.User{Name: t.User, IP: clientIP(t.HTTP)} }

// takePinned gets the connection that is pinned to this client for its origin, if
// there is one that is alive and that the rules still allow.
func (t *transaction) takePinned() *origin.Lease {
	if !t.Proxy.Pins.Any() {
		return nil
	}
	client := t.clientConn()
	if client == nil {
		return nil
	}
	l := t.Proxy.Pins.Take(client, t.pinUser(), t.PoolKey())
	if l == nil {
		return nil
	}
	if c := l.Conn(); !c.Alive() || !t.Proxy.Accepts(c, t.Target) {
		l.Discard()
		return nil
	}
	t.bound = true
	t.Outcome.Reused = true
	t.Outcome.Remote = l.Conn().Addr
	return l
}

// pin keeps the connection for the next request of this client. Where that
// cannot be told from those of others, on HTTP/2 and HTTP/3, it is closed.
func (t *transaction) pin(l *origin.Lease, keep time.Duration) {
	client := t.clientConn()
	if client == nil || !t.Proxy.Pins.Put(client, t.pinUser(), t.PoolKey(), l, keep) {
		l.Discard()
	}
}
