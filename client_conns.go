package egress

import (
	"context"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/origin"
)

// followPins makes the connections of clients known to their requests, and has the
// pins of each closed when it closes.
func followPins(p *origin.Pins, server *caddyhttp.Server) {
	server.RegisterConnContext(func(ctx context.Context, c net.Conn) context.Context {
		return origin.WithClient(ctx, c) // the handler of the server that is first
	})
	server.RegisterConnState(func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			p.Drop(c)
		}
	})
}
