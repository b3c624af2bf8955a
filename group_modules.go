package egress

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what groups of upstream proxies take of Caddy: its events, and the
// dynamic sources of reverse_proxy.

// events are Caddy's.
type events struct {
	app *caddyevents.App
	ctx caddy.Context
}

func groupEvents(ctx caddy.Context) (upstream.Events, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	return events{app.(*caddyevents.App), ctx}, nil
}

// Wanted implements upstream.Events.
func (e events) Wanted(name string) bool { return e.app.ShouldEmit(name) }

// Emit implements upstream.Events.
func (e events) Emit(name string, data map[string]any) { e.app.Emit(e.ctx, name, data) }

// source asks the dynamic source of the group, if it has one.
func (g *UpstreamGroup) source(ctx caddy.Context) (func() ([]upstream.Address, error), error) {
	if len(g.DynamicRaw) == 0 {
		return nil, nil
	}
	module, err := ctx.LoadModule(g, "DynamicRaw")
	if err != nil {
		return nil, fmt.Errorf("dynamic: %w", err)
	}
	source, ok := module.(reverseproxy.UpstreamSource)
	if !ok {
		return nil, fmt.Errorf("dynamic: %T is no source of upstreams", module)
	}
	scheme := g.Scheme
	return func() ([]upstream.Address, error) { return askSource(ctx, source, scheme) }, nil
}

// askSource asks a dynamic source where its members are.
func askSource(ctx caddy.Context, source reverseproxy.UpstreamSource, scheme string) ([]upstream.Address, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://egress.invalid/", http.NoBody)
	if err != nil {
		return nil, err
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
	upstreams, err := source.GetUpstreams(r)
	if err != nil {
		return nil, fmt.Errorf("dynamic: %w", err)
	}
	addrs := make([]upstream.Address, 0, len(upstreams))
	for _, u := range upstreams {
		host, port, err := net.SplitHostPort(u.Dial)
		if err != nil {
			return nil, fmt.Errorf("dynamic: '%s' is not host:port", plaintext.Escaped(u.Dial))
		}
		addr, err := upstream.ParseURL(net.JoinHostPort(strings.TrimSuffix(host, "."), port), scheme)
		if err != nil {
			return nil, fmt.Errorf("dynamic: '%s': %w", plaintext.Escaped(u.Dial), err)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// Interface guards
var _ upstream.Events = events{}
