package main

import (
	"sync"
	"time"
)

// timeline is what was done to the proxies, and when.
type timeline struct {
	mu      sync.Mutex
	reloads []span
	kills   []span
	stalls  []span // when this machine had no time for us
}

// span is a time; one that has not ended has no end.
type span struct{ from, to time.Time }

func (s span) overlaps(from, to time.Time) bool {
	return !s.from.After(to) && (s.to.IsZero() || !s.to.Before(from))
}

// begin adds a span that begins now, and returns what ends it.
func (t *timeline) begin(spans *[]span) (end func(at time.Time)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := len(*spans)
	*spans = append(*spans, span{from: time.Now()})
	return func(at time.Time) {
		t.mu.Lock()
		defer t.mu.Unlock()
		(*spans)[i].to = at
	}
}

func anyOverlap(spans []span, from, to time.Time) bool {
	for _, s := range spans {
		if s.overlaps(from, to) {
			return true
		}
	}
	return false
}

// How long a fault may be felt after it struck: a connection that is dead waits in
// a pool, for keepalive and then for a timeout; a circuit is open; an HTTP/2
// connection is found dead by PING, that of a client after 2 and 10 seconds, one to
// an upstream proxy after 15 and 5.
const (
	linkReach    = 15 * time.Second
	longestReach = 25 * time.Second
)

// reloadReach is how long after a reload the old server may still close connections
// that wait for a request: each of them when the exchange is over that it carried
// then, which links that are slow make last.
func (l *lab) reloadReach() time.Duration {
	if l.plan.faults {
		return l.patience
	}
	return 5 * time.Second
}

// explain says why a request could end otherwise than well, or "" if there is no
// reason that excuses the proxy:
//
//   - a fault struck on a link on its way, while it was under way or so shortly
//     before that it could still be felt;
//   - an upstream proxy was killed while it was under way, and it used the group;
//   - a reload took place and there is no answer: Caddy resets connections that
//     still wait in the accept queue of the listener that it gives up, and closes
//     idle ones, on which a request may be under way;
//   - the machine was too busy to run even this process: timeouts prove nothing.
func (l *lab) explain(q request, o outcome) string {
	for _, link := range l.linksOf(q) {
		reach := linkReach
		if link == l.links.parentTLS {
			reach = longestReach
		}
		if link.struckWithin(o.start.Add(-reach), o.end) {
			return "fault on its way"
		}
	}
	l.times.mu.Lock()
	defer l.times.mu.Unlock()
	if q.parents && anyOverlap(l.times.kills, o.start, o.end) {
		return "upstream killed meanwhile"
	}
	if !o.answered && o.class != timedOut && anyOverlap(l.times.reloads, o.start, o.end) {
		return "connection lost at a reload"
	}
	if anyOverlap(l.times.stalls, o.start, o.end) {
		return "the machine stalled"
	}
	return ""
}
