package metrics

import (
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// This file contains how what has no series of its own is summed up, so that the sum never
// falls: what leaves it, or is told by itself from now on, leaves its count behind.

// tally are the counters of an upstream, or in its first place the one of a rule.
type tally [int(health.Kinds) + int(health.CheckOutcomes) + len(health.Events) + int(health.SpareCauses)]uint64

// summand is a part of a sum.
type summand struct {
	known  time.Time // since when it counts; the zero value if that is unknown
	counts tally
}

// sum is what is told of all that has no series of its own at one place.
type sum struct {
	at    time.Time // when it was taken last
	total tally
	parts map[string]summand // as they were then, by name
}

// take adds what the parts have counted since they were taken last. One that was told by itself
// until now begins with what it has. A scrape that was overtaken by another one adds nothing.
func (s *sum) take(now time.Time, parts map[string]summand) tally {
	for name, p := range parts {
		before, had := s.parts[name]
		switch {
		case had && !p.known.Equal(before.known), !had && (s.at.IsZero() || p.known.After(s.at)):
			before = summand{} // it is new
		case !had:
			before = p
		}
		for i, n := range p.counts {
			if n > before.counts[i] {
				s.total[i] += n - before.counts[i]
			} else {
				p.counts[i] = before.counts[i]
			}
		}
		parts[name] = p
	}
	s.at, s.parts = now, parts
	return s.total
}

// sums are those of all handlers. They are safe for concurrent use.
type sums struct {
	mu  sync.Mutex
	all map[string]map[string]*sum // by handler, then by what it is of; guarded by mu
}

// others are those of the process.
var others = sums{all: make(map[string]map[string]*sum)}

// ofRules is what the sums of rules are of: no group has such a name.
func ofRules(action string) string { return "/rules/" + action }

func (s *sums) take(now time.Time, handler, of string, parts map[string]summand) tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[handler] == nil {
		s.all[handler] = make(map[string]*sum)
	}
	if s.all[handler][of] == nil {
		s.all[handler][of] = new(sum)
	}
	return s.all[handler][of].take(now, parts)
}

// told reports whether there is a sum already.
func (s *sums) told(handler, of string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[handler][of] != nil
}

// forget drops the sum of a group.
func (s *sums) forget(handler, group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all[handler], group)
}

// forgetHandler drops all sums of a handler.
func (s *sums) forgetHandler(handler string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, handler)
}
