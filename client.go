package egress

import (
	"context"
	"net"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/origin"
)

// This file contains who the client and the user of a request are, and what they hold.

// clientIP is the address of the client as Caddy's {client_ip} has it.
func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// authenticatedUser is the user whom we, or a handler before us, know the client
// as; "" if nobody does.
func authenticatedUser(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString(userPlaceholder)
	return user
}

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

// httpClient is the client of a request of Caddy's.
type httpClient transaction

// IP implements client.
func (c *httpClient) IP() string { return clientIP(c.HTTP) }

// User implements client.
func (c *httpClient) User() string { return authenticatedUser(c.HTTP) }
