package upstream

import (
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains what is told of a group, each once when it changes: that no member can
// serve, that it panics, that a source of members fails, that a member is suspect.

// told is what was told of a group last. It outlives a configuration, whatever that says of
// the group: a reload tells nothing anew, and its end where it mends the group. The zero value
// has told that all is well.
type told struct {
	mu      sync.Mutex
	by      *Group          // that tells: the one that started last; nil for none
	down    bool            // no member can serve
	panic   bool            // ejection is ignored
	failing map[string]bool // sources, by name
}

// Destruct forgets it.
func (*told) Destruct() error { return nil }

// sharedTold is what was told of the groups of this process last, by handler and name.
var sharedTold = shared.NewPool[*told]()

// take lets a group tell, and none before it. What failed of sources that it does not have is
// of the past.
func (t *told) take(g *Group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.by = g
	maps.DeleteFunc(t.failing, func(name string, _ bool) bool { return !g.hasSource(name) })
}

// leave is called when a group ends.
func (t *told) leave(g *Group) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == g {
		t.by = nil
	}
}

// standing notes how a group is, and reports what is to be told.
func (t *told) standing(g *Group, s *health.Snapshot) (down, panics bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by != g {
		return false, false
	}
	nobody := len(s.Tiers) == 0
	down = nobody != t.down
	t.down = nobody
	if !nobody && s.Panic != t.panic { // with nobody to fall back on, it is no panic
		t.panic, panics = s.Panic, true
	}
	return down, panics
}

// source notes whether a source fails, and reports whether that is to be told.
func (t *told) source(g *Group, name string, fails bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by != g || t.failing[name] == fails {
		return false
	}
	if !fails {
		delete(t.failing, name)
		return true
	}
	if t.failing == nil {
		t.failing = make(map[string]bool)
	}
	t.failing[name] = true
	return true
}

// tellBegin begins to tell. Called with mu held.
func (g *Group) tellBegin() {
	g.told.Value.take(g)
	for name, err := range g.early {
		g.tellSourceNow(name, err)
	}
	g.early = nil
	go g.followStanding()
}

// followStanding tells how the group is until it ends. Before its sources have told anything,
// that it has no members means nothing.
func (g *Group) followStanding() {
	select {
	case <-g.stop:
		return
	case <-g.beginning:
	}
	for {
		g.tellStanding(time.Now())
		select {
		case <-g.stop:
			return
		case <-g.health.Edges():
		}
	}
}

func (g *Group) tellStanding(now time.Time) {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return // its members have gone, or will
	}
	s := g.health.Survey(now)
	down, panics := g.told.Value.standing(g, s)
	why := ""
	if down {
		out, _, _ := g.countOut(now, 0, "")
		why = out.String()
	}
	g.mu.Unlock()
	counts := []zap.Field{zap.Int("in_rotation", s.InRotation), zap.Int("ready", s.Ready)}
	switch {
	case down && len(s.Tiers) == 0:
		g.emit(zapcore.ErrorLevel, "group_down", "no upstream of the group can serve", zap.String("reason", why))
	case down:
		g.emit(zapcore.InfoLevel, "group_up", "the group has an upstream again that can serve", counts...)
	}
	switch {
	case panics && s.Panic:
		g.emit(zapcore.WarnLevel, "panic_on", "too few upstreams of the group are in rotation: ejection is ignored", counts...)
	case panics:
		g.emit(zapcore.InfoLevel, "panic_off", "enough upstreams of the group are in rotation again: ejection counts", counts...)
	}
}

// hasSource reports whether members of the group come from a source of that name.
func (g *Group) hasSource(name string) bool {
	return name == g.cfg.File || slices.ContainsFunc(g.cfg.Sources, func(s Source) bool { return s.Name == name })
}

// tellSource tells that a source of members fails, or answers again. Before the
// configuration runs, that waits.
func (g *Group) tellSource(name string, err error) {
	g.mu.Lock()
	started, closed := g.events.Started(), g.closed
	if !started {
		if g.early == nil {
			g.early = make(map[string]error)
		}
		g.early[name] = err
	}
	g.mu.Unlock()
	if started && !closed {
		g.tellSourceNow(name, err)
	}
}

func (g *Group) tellSourceNow(name string, err error) {
	switch {
	case !g.told.Value.source(g, name, err != nil):
	case err != nil: // the log line is that of who asks it
		g.add("source_failed", zap.String("source", name), zap.String("error", plaintext.Short(err.Error(), maxFault)))
	default:
		g.emit(zapcore.InfoLevel, "source_recovered", "source of upstreams works again", zap.String("source", name))
	}
}

// tellSuspect tells that a member answers, but reaches nothing.
func (g *Group) tellSuspect(m *Member, ask health.Ask) {
	next := "it is compared with other ways to its destinations"
	switch ask {
	case health.AskCheck:
		next = "it is checked now"
	case health.AskWarn:
		next = "a health_check with a target would tell why"
	}
	g.emit(zapcore.WarnLevel, "suspect", "upstream answers, but reaches none of several destinations: suspect",
		zap.String("upstream", m.Name), zap.String("reason", next))
}

// emit logs an event and emits it, with the same fields.
func (g *Group) emit(level zapcore.Level, event, message string, fields ...zap.Field) {
	g.cfg.Logger.Log(level, message, append([]zap.Field{zap.String("handler", g.cfg.Handler)}, fields...)...)
	g.add(event, fields...)
}

func (g *Group) add(event string, fields ...zap.Field) {
	data := zapcore.NewMapObjectEncoder()
	data.AddString("handler", g.cfg.Handler)
	data.AddString("group", g.Name)
	for _, f := range fields {
		f.AddTo(data)
	}
	g.events.Add(event, data.Fields)
}
