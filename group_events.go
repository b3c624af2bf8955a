package egress

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// This file contains the events of groups: those that are emitted, and the one that
// says that the configuration runs.

// eventQueue emits events one after the other, in the order in which they were added.
// Their handlers may take their time, which is not that of a request.
type eventQueue struct {
	app *caddyevents.App
	ctx caddy.Context

	// started is set when all apps run. Before that the events app still takes
	// subscriptions, and must not be asked for any.
	started atomic.Bool

	mu       sync.Mutex
	waiting  []queuedEvent
	emitting bool
}

type queuedEvent struct {
	name string
	data map[string]any
}

// add emits an event, if anybody is interested.
func (q *eventQueue) add(name string, data map[string]any) {
	if !q.started.Load() || !q.app.ShouldEmit(name) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, queuedEvent{name, data})
	if !q.emitting {
		q.emitting = true
		go q.emit()
	}
}

func (q *eventQueue) emit() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.emitting = false
			q.mu.Unlock()
			return
		}
		next := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		q.app.Emit(q.ctx, next.name, next.data)
	}
}

// awaitStart begins with the checks once all apps have started: what they find can be
// emitted from then on, and a configuration that is only validated checks nobody.
func (h *Handler) awaitStart() error {
	for _, g := range h.groups {
		h.onStart = new(onStart)
		h.onStart.handler.Store(h)
		return g.events.app.On("started", h.onStart) // one subscription for all
	}
	return nil
}

func (h *Handler) startGroups() {
	for _, g := range h.groups {
		g.start()
	}
}

// onStart is a handler of the event that tells that Caddy has started. The events app
// keeps it, also when the configuration was cleaned up.
type onStart struct {
	handler atomic.Pointer[Handler]
}

// Handle implements caddyevents.Handler.
func (s *onStart) Handle(context.Context, caddy.Event) error {
	if h := s.handler.Load(); h != nil {
		h.startGroups()
	}
	return nil
}

// Interface guards
var _ caddyevents.Handler = (*onStart)(nil)
