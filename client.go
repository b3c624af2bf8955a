package egress

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/clientend"
	"github.com/caddy-egress/egress/internal/origin"
)

// This file contains who the client and the user of a request are, what they hold, and what
// is set for their connections.

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

// setWindows gives HTTP/2 connections of a server their windows. They read them when they
// begin, behind this hook.
func setWindows(server *caddyhttp.Server) {
	var once sync.Once
	server.RegisterConnContext(func(ctx context.Context, _ net.Conn) context.Context {
		once.Do(func() {
			if s, ok := ctx.Value(http.ServerContextKey).(*http.Server); ok {
				clientend.SetWindows(s, time.Duration(server.WriteIdleTimeout))
			}
		})
		return ctx
	})
}

// httpClient is the client of a request of Caddy's.
type httpClient incoming

// IP implements client.
func (c *httpClient) IP() string { return caddyserver.ClientIP(c.HTTP) }

// User implements client.
func (c *httpClient) User() string { return caddyserver.User(c.HTTP) }
