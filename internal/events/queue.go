package events

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Sink emits events to whoever has subscribed.
type Sink interface {
	// Wanted reports whether anybody has subscribed to an event.
	Wanted(name string) bool
	// Emit calls the subscribers, which may take their time.
	Emit(name string, data map[string]any)
}

// Queue emits events one after the other, in the order in which they were added. Those that
// subscribe may take their time, which is not that of a request.
type Queue struct {
	to Sink

	// started is set when all apps run. Before that the events app still takes
	// subscriptions, and must not be asked for any: events wait.
	started atomic.Bool

	mu       sync.Mutex
	waiting  []event
	emitting bool
}

type event struct {
	name string
	data map[string]any
}

// To makes a queue of events for a sink.
func To(s Sink) *Queue { return &Queue{to: s} }

// Started reports whether Start was called.
func (q *Queue) Started() bool { return q.started.Load() }

// Add emits an event, if anybody is interested, and adds it to the recent ones. Until Start
// it waits. A nil queue has nobody, and forgets it.
func (q *Queue) Add(name string, data map[string]any) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.started.Load():
		Recent.Add(name, data)
		if !q.to.Wanted(name) {
			return
		}
		if len(q.waiting) == maxWaitingEvents {
			q.waiting = q.waiting[1:] // the last ones tell how things are
		}
		q.waiting = append(q.waiting, event{name, data})
		q.run()
	case len(q.waiting) < maxEarlyEvents:
		q.waiting = append(q.waiting, event{name, data})
	}
}

// maxEarlyEvents bounds the events of a configuration that does not run yet, and perhaps
// never will.
const maxEarlyEvents = 64

// maxWaitingEvents bounds those that wait for a handler that takes its time, or hangs. The
// oldest are forgotten.
const maxWaitingEvents = 1024

// Start emits what has waited. It reports false if it was called before.
func (q *Queue) Start() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.started.Swap(true) {
		return false
	}
	for _, e := range q.waiting {
		Recent.Add(e.name, e.data)
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(e event) bool { return !q.to.Wanted(e.name) })
	q.run()
	return true
}

// run emits what waits. mu is held.
func (q *Queue) run() {
	if len(q.waiting) > 0 && !q.emitting {
		q.emitting = true
		go q.emit()
	}
}

func (q *Queue) emit() {
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
