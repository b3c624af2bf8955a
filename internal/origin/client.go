package origin

import (
	"context"
	"net"
)

// clientKey is the context key of a client's connection.
type clientKey struct{}

// WithClient makes the connection of a client known to its requests, unless there is one
// known already.
func WithClient(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(clientKey{}) != nil {
		return ctx
	}
	return context.WithValue(ctx, clientKey{}, conn)
}

// ClientOf is the connection that WithClient has made known; nil for none. It is an
// identity, never reused by another client as addresses are.
func ClientOf(ctx context.Context) net.Conn {
	conn, _ := ctx.Value(clientKey{}).(net.Conn)
	return conn
}
