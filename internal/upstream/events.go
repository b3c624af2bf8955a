package upstream

import (
	"slices"
	"sync"
	"sync/atomic"
)

// This file contains the events of groups, and what waits until the configuration
// runs.

// eventQueue emits events one after the other, in the order in which they were added.
// Their handlers may take their time, which is not that of a request.
type eventQueue struct {
	to Events

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
	if q.started.Load() && !q.to.Wanted(name) {
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
	q.waiting = slices.DeleteFunc(q.waiting, func(e queuedEvent) bool { return !q.to.Wanted(e.name) })
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
		q.to.Emit(next.name, next.data)
	}
}
