package exchange

import (
	"net"
	"reflect"
	"time"

	"github.com/caddy-egress/egress/internal/origin"
)

// clientConn is the client's connection, where it carries the requests of one
// client one after another: HTTP/1. Nothing else is done with it here.
func (t *Exchange) clientConn() net.Conn {
	if t.HTTP.ProtoMajor != 1 {
		return nil
	}
	c := origin.ClientOf(t.HTTP.Context())
	if c == nil || reflect.TypeOf(c).Kind() != reflect.Pointer {
		return nil // no identity
	}
	return c
}

func (t *Exchange) pinUser() origin.User { return origin.User{Name: t.User, IP: t.Client.IP()} }

// takePinned gets the connection that is pinned to this client for its origin, if
// there is one that is alive and that the rules still allow.
func (t *Exchange) takePinned() *origin.Lease {
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
	t.TracePeer()
	return l
}

// pin keeps the connection for the next request of this client. Where that
// cannot be told from those of others, on HTTP/2 and HTTP/3, it is closed.
func (t *Exchange) pin(l *origin.Lease, keep time.Duration) {
	client := t.clientConn()
	if client == nil || !t.Proxy.Pins.Put(client, t.pinUser(), t.PoolKey(), l, keep) {
		l.Discard()
	}
}
