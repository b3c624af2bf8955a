package egress

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/metrics"
)

// provisionMetrics begins to count what becomes of requests, or goes on where the handler
// at this place before has stopped.
func (h *Handler) provisionMetrics(ctx caddy.Context) error {
	h.recorder = metrics.Acquire(h.place(), slices.Collect(maps.Keys(h.Groups)))
	if metrics.Counted {
		h.proxy.Recorder, h.proxy.Direct.Recorder = h.recorder, h.recorder
	}
	return metrics.Register(ctx.GetMetricsRegistry(), admin.Version(), serving)
}

// countClients has the connections to a server counted.
func (h *Handler) countClients(server *caddyhttp.Server) {
	if metrics.Counted {
		server.RegisterConnState(h.recorder.Clients().State)
	}
}

// serving are the handlers that serve, as metrics know them.
func serving() (all []metrics.Handler) {
	found, places := admin.Handlers.ByPlace()
	for _, place := range places {
		if h, ok := found[place].(metrics.Handler); ok {
			all = append(all, h)
		}
	}
	return all
}
