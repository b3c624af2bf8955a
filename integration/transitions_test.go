package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(captureEvents{})
}

// captureEvents is an event handler that keeps the transitions of upstreams.
type captureEvents struct {
	ID string `json:"id"`
}

func (captureEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "events.handlers.egress_capture",
		New: func() caddy.Module { return new(captureEvents) },
	}
}

func (e *captureEvents) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&e.ID) {
		return d.ArgErr()
	}
	return nil
}

// Handle implements caddyevents.Handler.
func (e *captureEvents) Handle(_ context.Context, event caddy.Event) error {
	if c, ok := eventCaptures.Load(e.ID); ok {
		c.(eventTaker).take(event)
	}
	return nil
}

var eventCaptures sync.Map // id → eventTaker

type eventTaker interface{ take(caddy.Event) }

func (e *transitions) take(event caddy.Event) {
	e.add(transition{event.Name(), fmt.Sprint(event.Data["upstream"]), fmt.Sprint(event.Data["reason"])})
}

// upstreamEvents are the names of transitions.
var upstreamEvents = []string{"healthy", "unhealthy", "circuit_open", "circuit_closed", "auth_failed"}

// transition is a change of the health of an upstream, as it was told.
type transition struct{ event, upstream, reason string }

// transitions are those told as events.
type transitions struct {
	id      string
	mu      sync.Mutex
	all     []transition
	changed chan struct{}
}

func (e *transitions) add(tr transition) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, tr)
	close(e.changed)
	e.changed = make(chan struct{})
}

// newTransitions keeps transitions of a Caddy whose global options hold events.
func newTransitions(t *testing.T) *transitions {
	e := &transitions{id: fmt.Sprint(captureID.Add(1)), changed: make(chan struct{})}
	eventCaptures.Store(e.id, e)
	t.Cleanup(func() { eventCaptures.Delete(e.id) })
	return e
}

// global subscribes.
func (e *transitions) global() string {
	var s strings.Builder
	s.WriteString("events {\n")
	for _, name := range upstreamEvents {
		s.WriteString("on " + name + " egress_capture " + e.id + "\n")
	}
	s.WriteString("}\n")
	return s.String()
}

func (e *transitions) so() ([]transition, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.all), e.changed
}

// await waits until the events about an upstream, in order, are these, and no
// other.
func (e *transitions) await(t *testing.T, u *scriptedUpstream, want ...string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		all, changed := e.so()
		var got []string
		for _, tr := range all {
			if tr.upstream == u.url() {
				got = append(got, tr.event)
			}
		}
		if slices.Equal(got, want) {
			return
		}
		if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Fatalf("events of %s: %v, want %v", u.name, got, want)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("events of %s: %v, want %v", u.name, got, want)
		}
	}
}

// expect compares the events so far, and the lines of the log, with what is wanted
// for each upstream.
func (e *transitions) expect(t *testing.T, p *proxy, want map[*scriptedUpstream][]string) {
	t.Helper()
	for u, events := range want {
		e.await(t, u, events...)
		var got []string
		for _, l := range p.logs.transitionsOf(u.url()) {
			got = append(got, l.event())
		}
		if !slices.Equal(got, events) {
			t.Errorf("log lines of %s: %v, want %v", u.name, got, events)
		}
	}
	all, _ := e.so()
	for _, tr := range all {
		known := false
		for u := range want {
			known = known || u.url() == tr.upstream
		}
		if !known {
			t.Errorf("unexpected event %v", tr)
		}
	}
}

// transitionLines tells the lines of the log about transitions by their text.
var transitionLines = map[string]string{
	"upstream is healthy again":                         "healthy",
	"upstream fails its checks: out of rotation":        "unhealthy",
	"upstream fails: circuit opened":                    "circuit_open",
	"upstream works again: circuit closed":              "circuit_closed",
	"upstream refuses our credentials: out of rotation": "auth_failed",
}

// event is the transition that a line tells, or "".
func (l logLine) event() string {
	if l.str("logger") != "http.handlers.egress.upstreams" {
		return ""
	}
	return transitionLines[l.str("msg")]
}

// transitionsOf are the lines about transitions of an upstream so far.
func (c *logCapture) transitionsOf(upstream string) (found []logLine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if l.event() != "" && l.str("upstream") == upstream {
			found = append(found, l)
		}
	}
	return found
}

// waitTransition waits for the nth line about an upstream with one of the events.
func (c *logCapture) waitTransition(t *testing.T, upstream string, after int, events ...string) logLine {
	t.Helper()
	return c.wait(t, strings.Join(events, " or ")+" of "+upstream, func() func(logLine) bool {
		n := 0
		return func(l logLine) bool {
			e := l.event()
			if e == "" || l.str("upstream") != upstream {
				return false
			}
			n++
			return n > after && slices.Contains(events, e)
		}
	}())
}
