package egress

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the line in the log that says what a reload has kept.

// takeover is what a handler has taken over, in a reload, from the one that served at
// its place before.
type takeover struct {
	upstream.Takeover     // of its groups, and of its own pool
	circuits          int // destinations that failed lately
	names             bool
	tunnels           int // that go on
}

// handOver lets the handler that takes over from h, if there is one, log what it has
// taken over. It is called when that one's configuration has started, and before h lets
// go of anything. The first configuration, and a handler at a place where none was,
// have nothing to report; neither has one whose configuration fails.
func (h *Handler) handOver() {
	if next, ok := admin.Handlers.After((*served)(h)).(*served); ok {
		(*Handler)(next).reportTakeover(h)
	}
}

func (h *Handler) reportTakeover(before *Handler) {
	t := h.takenFrom(before)
	h.lastReload.Store(&admin.Reload{
		Handler: h.place(), Time: time.Now(),
		ConnectionsKept:   admin.Kept{Idle: t.Connections.Idle, Active: t.Connections.Active},
		ConnectionsClosed: admin.Kept{Idle: t.Left.Idle, Active: t.Left.Active},
		UpstreamsKept:     t.Kept, UpstreamsChanged: t.Changed, UpstreamsNew: t.Added, UpstreamsRemoved: t.Removed,
		FailingDestinations: t.circuits, NamesKept: t.names, Tunnels: t.tunnels,
	})
	(*served)(h).Emit("reloaded", map[string]any{
		"handler": h.place(), "upstreams_kept": t.Kept, "upstreams_changed": t.Changed, "upstreams_new": t.Added,
		"upstreams_removed": t.Removed, "tunnels": t.tunnels,
	})
	h.logger.Info("state taken over from the configuration before",
		zap.String("handler", h.place()),
		zap.Int("connections_idle", t.Connections.Idle),
		zap.Int("connections_active", t.Connections.Active),
		zap.Int("connections_closing", t.Left.Idle),
		zap.Int("connections_draining", t.Left.Active),
		zap.Int("upstreams_kept", t.Kept),
		zap.Int("upstreams_changed", t.Changed),
		zap.Int("upstreams_new", t.Added),
		zap.Int("upstreams_removed", t.Removed),
		zap.Int("failing_destinations", t.circuits),
		zap.Bool("names_kept", t.names),
		zap.Int("tunnels", t.tunnels),
	)
}

func (h *Handler) takenFrom(before *Handler) takeover {
	t := takeover{names: h.names == before.names, tunnels: h.proxy.Tunnels.Value.Report().Tunnels}
	if h.proxy.Pool == before.proxy.Pool {
		t.Connections.Add(h.proxy.Pool.Stats())
	} else {
		t.Left.Add(before.proxy.Pool.Stats())
	}
	counted := map[*exitState]bool{} // routes with the same local addresses share one
	count := func(p *exitUse) {
		if p == nil || counted[p.Value] {
			return
		}
		if counted[p.Value] = true; p.Kept { // of several uses of a new one, all but the first are Kept
			t.circuits += p.Value.circuits.Tracked()
		}
	}
	count(h.direct)
	for _, r := range h.Routes {
		count(r.exit)
	}
	for name, g := range h.groups {
		count(h.groupExits[name])
		t.Add(g, before.groups[name])
	}
	for name, g := range before.groups {
		if h.groups[name] == nil {
			t.Add(nil, g)
		}
	}
	return t
}
