package egress

import (
	"context"
	"net"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
)

// This file contains how a client is seen to have left where net/http does not look:
// on HTTP/1.1 it reads ahead only when the body of the request was read.

// lookInterval is how often a client that waits is looked at.
const lookInterval = time.Second

// hungUp returns what reports whether the client of a request has closed its
// connection. It takes nothing from that, and reports false where it cannot tell.
func hungUp(ctx context.Context) func() bool {
	conn, _ := ctx.Value(clientConnKey{}).(net.Conn)
	return func() bool { return conn != nil && layers.HungUp(conn) }
}
