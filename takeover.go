package egress

import (
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the line in the log that says what a reload has kept.

// takeover is what a handler has taken over, in a reload, from the one that served at
// its place before.
type takeover struct {
	kept, left connections
	upstreams  struct{ kept, changed, added, removed int }
	circuits   int // destinations that failed lately
	names      bool
	tunnels    int64 // that go on
}

// connections are pooled ones: to origins, and to upstreams for exchanges.
type connections struct{ idle, active int }

func (c *connections) add(s connpool.Stats) {
	c.idle += s.Idle
	c.active += s.Open - s.Idle
}

// handOver lets the handler that takes over from h, if there is one, log what it has
// taken over. It is called when that one's configuration has started, and before h lets
// go of anything. The first configuration, and a handler at a place where none was,
// have nothing to report; neither has one whose configuration fails.
func (h *Handler) handOver() {
	if next := handlers.after(h); next != nil {
		next.reportTakeover(h)
	}
}

func (h *Handler) reportTakeover(before *Handler) {
	t := h.takenFrom(before)
	h.logger.Info("state taken over from the configuration before",
		zap.String("handler", h.place()),
		zap.Int("connections_idle", t.kept.idle),
		zap.Int("connections_active", t.kept.active),
		zap.Int("connections_closing", t.left.idle),
		zap.Int("connections_draining", t.left.active),
		zap.Int("upstreams_kept", t.upstreams.kept),
		zap.Int("upstreams_changed", t.upstreams.changed),
		zap.Int("upstreams_new", t.upstreams.added),
		zap.Int("upstreams_removed", t.upstreams.removed),
		zap.Int("failing_destinations", t.circuits),
		zap.Bool("names_kept", t.names),
		zap.Int64("tunnels", t.tunnels),
	)
}

func (h *Handler) takenFrom(before *Handler) takeover {
	t := takeover{names: h.names == before.names, tunnels: int64(h.proxy.Tunnels.Value.Report().Tunnels)}
	if h.proxy.Pool == before.proxy.Pool {
		t.kept.add(h.proxy.Pool.Stats())
	} else {
		t.left.add(before.proxy.Pool.Stats())
	}
	paths := map[*pathState]bool{} // routes with the same local addresses share one
	for _, r := range h.Routes {
		if r.path != nil && !paths[r.path.Value] {
			paths[r.path.Value] = true
			t.countCircuits(r.path)
		}
	}
	t.countCircuits(h.direct)
	for name, g := range h.groups {
		t.countCircuits(h.groupPaths[name])
		t.compare(g.Current(), before.groups[name].Current())
	}
	for name, g := range before.groups {
		if h.groups[name] == nil {
			t.compare(nil, g.Current())
		}
	}
	return t
}

func (t *takeover) countCircuits(u *pathUse) {
	if u.Kept {
		t.circuits += u.Value.circuits.Tracked()
	}
}

// compare counts the members of a group against those of before. One has changed that
// keeps its health, but not its connections.
func (t *takeover) compare(now, before map[string]*upstream.Member) {
	for id, m := range now {
		switch old := before[id]; {
		case old == nil:
			t.upstreams.added++
		case old.Conns == m.Conns:
			t.upstreams.kept++
			t.kept.add(m.Conns.Pool.Stats())
		default:
			t.upstreams.changed++
			t.left.add(old.Conns.Pool.Stats())
		}
	}
	for id, old := range before {
		if now[id] == nil {
			t.upstreams.removed++
			t.left.add(old.Conns.Pool.Stats())
		}
	}
}
