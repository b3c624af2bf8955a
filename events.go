package egress

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/events"
)

// This file contains how events reach those that subscribe in Caddy's events app.

// sink is Caddy's events app.
type sink struct {
	app *caddyevents.App
	ctx caddy.Context
}

func eventSink(ctx caddy.Context) (events.Sink, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	return sink{app.(*caddyevents.App), ctx}, nil
}

// provisionEvents makes the queue of the handler. One outside of the HTTP app has none.
func (h *Handler) provisionEvents(ctx caddy.Context) error {
	if app, _ := caddyserver.Of(ctx); app == nil {
		return nil
	}
	to, err := eventSink(ctx)
	if err == nil {
		h.events = events.To(to)
	}
	return err
}

// tellLimits has an event emitted where a limit begins to refuse requests. The function
// outlives the handler in what its requests hold.
func (h *Handler) tellLimits(caddy.Context) error {
	queue, place, logger := h.events, h.place(), h.logger
	return h.proxy.Limited.Tell(place, func(limit string, client core.Client) {
		user, ip := client.User(), client.IP()
		logger.Warn("limit reached: requests are refused",
			zap.String("handler", place), zap.String("limit", limit), zap.String("user", user), zap.String("client", ip))
		queue.Add("limit_reached", map[string]any{"handler": place, "limit": limit, "user": user, "client": ip})
	})
}

// tellOf emits events that are about a handler.
func (h *Handler) tellOf(place string) acl.Emit {
	queue := h.events
	return func(event string, data map[string]any) {
		data["handler"] = place
		queue.Add(event, data)
	}
}

// Wanted implements events.Sink.
func (s sink) Wanted(name string) bool { return s.app.ShouldEmit(name) }

// Emit implements events.Sink.
func (s sink) Emit(name string, data map[string]any) { s.app.Emit(s.ctx, name, data) }

// Interface guards
var _ events.Sink = sink{}
