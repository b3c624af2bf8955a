package egress

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

// This file contains the events of groups, and what waits until the configuration
// runs.

// eventQueue emits events one after the other, in the order in which they were added.
// Their handlers may take their time, which is not that of a request.
type eventQueue struct {
	app *caddyevents.App
	ctx caddy.Context

	// started is set when all apps run. Before that the events app still takes
	// subscriptions, and must not be asked for any: events wait.
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
	if q.started.Load() && !q.app.ShouldEmit(name) {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.started.Load():
		q.waiting = append(q.waiting, queuedEvent{name, data})
		q.run()
	case len(q.waiting) < maxEarlyEvents:
		q.waiting = append(q.waiting, queuedEvent{name, data})
	}
}

// maxEarlyEvents bounds the events of a configuration that does not run yet, and perhaps
// never will.
const maxEarlyEvents = 64

// start emits what has waited. It reports false if it was called before.
func (q *eventQueue) start() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.started.Swap(true) {
		return false
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(e queuedEvent) bool { return !q.app.ShouldEmit(e.name) })
	q.run()
	return true
}

// run emits what waits. mu is held.
func (q *eventQueue) run() {
	if len(q.waiting) > 0 && !q.emitting {
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

// startPoll is how often is looked whether the configuration runs, until it does.
const startPoll = 5 * time.Millisecond

// awaitStart begins with the checks once the configuration runs: what they find can be
// emitted from then on, and one that is only validated checks nobody. The events app
// tells the start to those who subscribe, but takes subscriptions without a lock, while
// health checks of reverse_proxy, which begin when they are provisioned, may emit.
func (h *Handler) awaitStart(ctx caddy.Context) {
	app, _ := appOf(ctx)
	if app == nil || h.dry || len(h.groups) == 0 {
		return
	}
	go func() {
		ticker := time.NewTicker(startPoll)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if running, err := caddy.ActiveContext().AppIfConfigured("http"); err == nil && running == any(app) {
				h.startGroups()
				return
			}
		}
	}()
}

func (h *Handler) startGroups() {
	for _, g := range h.groups {
		g.start()
	}
}
