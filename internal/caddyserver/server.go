package caddyserver

import (
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Of is the HTTP app that a module belongs to, and its server there.
func Of(ctx caddy.Context) (app *caddyhttp.App, server *caddyhttp.Server) {
	for _, m := range ctx.Modules() {
		if a, ok := m.(*caddyhttp.App); ok {
			app = a
		}
	}
	server, _ = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	return app, server
}

// Hosts are the hosts that the servers of the configuration listen on.
func Hosts(ctx caddy.Context) (hosts []string) {
	app, _ := Of(ctx)
	if app == nil {
		return nil
	}
	repl := caddy.NewReplacer()
	for _, server := range app.Servers {
		for _, text := range server.Listen {
			na, err := caddy.ParseNetworkAddress(repl.ReplaceAll(text, ""))
			if err == nil && !na.IsUnixNetwork() && !na.IsFdNetwork() { // an error is Caddy's to report
				hosts = append(hosts, na.Host)
			}
		}
	}
	return hosts
}

// OnlyLoopback reports whether every listener of the server is bound to a
// loopback address or a Unix socket.
func OnlyLoopback(server *caddyhttp.Server) bool {
	return !slices.ContainsFunc(server.Listen, func(addr string) bool {
		na, err := caddy.ParseNetworkAddress(addr)
		if err != nil || na.IsUnixNetwork() {
			return false
		}
		ip, err := netip.ParseAddr(na.Host)
		return na.Host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}
