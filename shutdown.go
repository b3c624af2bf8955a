package egress

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// This file contains how the tunnels of the handlers end when the process exits.
//
// At exit, Caddy waits for requests, and so for the tunnels of HTTP/2 and HTTP/3,
// for ever if no grace period is set; of tunnels over HTTP/1.1, whose connections
// were taken over from net/http, it knows nothing. So tunnels have `close_delay`
// left from the moment at which the server shuts down, and the process waits for
// those that Caddy does not wait for. internal/tunnels ends them, and those of
// handlers that are no longer in the configuration.

func init() {
	caddy.OnExit(func(context.Context) { awaitBooks() })
}

// drainAtExit has the tunnels of the handler ended when the process exits, and makes
// the process wait for that. The server calls the hooks on reloads too.
func (h *Handler) drainAtExit(ctx caddy.Context) {
	app, server := caddyserver.Of(ctx)
	if app == nil || server == nil {
		return // Cleanup is all there is
	}
	exitGrace.Store(int64(app.GracePeriod))
	live, name := &h.proxy.Tunnels.Value.Live, h.place()
	delay := exitDelay(time.Duration(*h.tunnel.CloseDelay), time.Duration(app.GracePeriod))
	server.RegisterOnShutdown(func() {
		if !caddy.Exiting() {
			return
		}
		if left := live.Exit(delay); left > 0 {
			drainLogger().Info("exiting; tunnels have a while left",
				zap.String("handler", name), zap.Int("tunnels", left), zap.Duration("delay", delay))
		}
		h.waiting.Do(func() { go h.tellWaiting() })
	})
	// After Shutdown, which does not wait for connections that were taken over,
	// and before the logs are closed. The context ends with the grace period.
	server.RegisterOnStop(func(ctx context.Context) error {
		if caddy.Exiting() {
			live.Await(ctx)
		}
		return nil
	})
}

// tellWaiting tells each second what the exit waits for, until nothing is left.
func (h *Handler) tellWaiting() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for range ticker.C {
		r := (*served)(h).Report()
		exchanges := r.Pool.Leased
		for g := range r.Groups {
			for m := range r.Groups[g].Members {
				exchanges += r.Groups[g].Members[m].Pool.Leased
			}
		}
		if r.Tunnels.Tunnels == 0 && exchanges == 0 {
			return
		}
		drainLogger().Info("exiting: waiting for what is under way",
			zap.String("handler", h.place()), zap.Int("tunnels", r.Tunnels.Tunnels), zap.Int("exchanges", exchanges),
			zap.Duration("tunnels_end_in", max(time.Until(r.Tunnels.Deadline), 0).Round(time.Second)))
	}
}

// exitDelay is how long tunnels have at exit. The grace period, where there is one,
// is the limit, and to end in order takes a moment of it.
func exitDelay(closeDelay, grace time.Duration) time.Duration {
	if grace > 0 {
		return min(closeDelay, max(grace-tunnels.DrainTime, 0))
	}
	return closeDelay
}

// awaitBooks waits for the tunnels of all handlers. Those that are left when the
// apps have stopped are of handlers that were gone before, and have their end set. The
// grace period, where there is one, is their limit too.
func awaitBooks() {
	books := tunnels.Books.All()
	if grace := time.Duration(exitGrace.Load()); grace > 0 {
		for _, b := range books {
			b.Live.Exit(exitDelay(grace, grace))
		}
	}
	for _, b := range books {
		b.Live.Await(context.Background())
	}
}

// exitGrace is the grace period of the last configuration that had a handler of ours: of one
// without, nothing is known here.
var exitGrace atomic.Int64

// activeConfig is what tells the active configuration from others; nil if there is none.
func activeConfig() <-chan struct{} {
	if ctx := caddy.ActiveContext().Context; ctx != nil {
		return ctx.Done()
	}
	return nil
}

// drainLogger is the logger of the configuration that runs: that of the handler may
// be closed.
func drainLogger() *zap.Logger {
	return caddy.Log().Named("http.handlers.egress.drain")
}
