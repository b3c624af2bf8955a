package orders

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// This file contains what storage has, and how orders get there and back. Other processes may
// use it too: each changes there only what it was told to change, and nothing that is newer.

// saved is what storage has.
type saved struct {
	Emergency *Given                   `json:"emergency,omitempty"`
	Upstreams map[string]savedUpstream `json:"upstreams,omitempty"`
	Ended     map[string]time.Time     `json:"ended,omitempty"`   // orders up to then were taken back; by ID
	Written   string                   `json:"written,omitempty"` // no two writings have the same
}

// maxEnded is of how many orders is known that they were taken back: by then, a process that
// still knows such an order has hardly anything to write about it.
const maxEnded = 256

// end notes that an order was taken back, so that no other process that knows it writes it
// again.
func (is *saved) end(id string, at time.Time) {
	if is.Ended == nil {
		is.Ended = make(map[string]time.Time)
	}
	is.Ended[id] = at
	for len(is.Ended) > maxEnded {
		oldest := id
		for other, t := range is.Ended {
			if t.Before(is.Ended[oldest]) {
				oldest = other
			}
		}
		delete(is.Ended, oldest)
	}
}

// hasEnded reports whether an order that was given at a time was taken back.
func (is *saved) hasEnded(id string, given time.Time) bool {
	at, ok := is.Ended[id]
	return ok && !given.After(at)
}

type savedUpstream struct {
	Given
	State    string  `json:"state"`
	Weight   float64 `json:"weight"`
	Group    string  `json:"group"`
	Upstream string  `json:"upstream"`
	Holder
}

// parseSaved reads what storage has; nil is nothing.
func parseSaved(data []byte) (*saved, error) {
	was := new(saved)
	if data != nil {
		if err := json.Unmarshal(data, was); err != nil {
			return nil, err
		}
	}
	for id, s := range was.Upstreams {
		switch _, ok := health.ParseAdmin(s.State); {
		case !ok:
			return nil, fmt.Errorf("upstream %s: state '%s' is unknown; one of ready, drain, maint", id, s.State)
		case !(s.Weight > 0 && s.Weight <= 1):
			return nil, fmt.Errorf("upstream %s: weight %v is not above 0 and at most 1", id, s.Weight)
		}
	}
	if was.Upstreams == nil {
		was.Upstreams = make(map[string]savedUpstream)
	}
	return was, nil
}

// takeUp takes up what storage has, but for what is older than what is known, and what is
// over. It returns what it has taken up, or found to be over, and when that was given. mu is
// held.
func (b *Book) takeUp(was *saved) map[string]time.Time {
	now, taken := time.Now(), make(map[string]time.Time)
	for id, s := range was.Upstreams {
		admin, _ := health.ParseAdmin(s.State)
		o := Order{s.Given, admin, s.Weight, s.Group, s.Upstream, s.Holder}
		known, had := b.upstreams[id]
		if b.knowsNewer(id, s.Since) || had && !s.Since.After(known.Since) {
			continue
		}
		taken[id] = s.Since
		if s.isOver(now) {
			b.unsaved(id, s.Since)
			b.untold = append(b.untold, Change{ID: id, Order: &o, Ended: true})
			continue
		}
		if b.upstreams == nil {
			b.upstreams = make(map[string]Order)
		}
		b.upstreams[id] = o
		b.apply(id)
		b.untold = append(b.untold, Change{ID: id, Order: &o, TakenUp: true})
	}
	if g := was.Emergency; g != nil && !b.knowsNewer("", g.Since) {
		known, e := b.emergency.Load(), &Emergency{*g}
		if known == nil || g.Since.After(known.Since) {
			taken[""] = g.Since
			if g.isOver(now) {
				b.unsaved("", g.Since)
				b.untold = append(b.untold, Change{Emergency: e, Ended: true})
			} else {
				b.emergency.Store(e)
				b.untold = append(b.untold, Change{Emergency: e, TakenUp: true})
			}
		}
	}
	b.await()
	return taken
}

// giveUp forgets what was taken up from the storage of a configuration that did not come to
// run, but for what was changed since. mu is held.
func (b *Book) giveUp(taken map[string]time.Time) {
	for id, given := range taken {
		if u, ok := b.keeping.unsaved[id]; ok && u.at.Equal(given) {
			delete(b.keeping.unsaved, id)
		}
		b.untold = slices.DeleteFunc(b.untold, func(c Change) bool { return c.ID == id })
		if e := b.emergency.Load(); id == "" && e != nil && e.Since.Equal(given) {
			b.emergency.Store(nil)
		}
		if o, ok := b.upstreams[id]; ok && o.Since.Equal(given) {
			delete(b.upstreams, id)
			b.apply(id)
		}
	}
	b.await()
}

// put changes what storage has to what is known and was not saved, and reports whether that
// changes anything. What another process has taken back stays so. mu is held.
func (b *Book) put(is *saved) (changed bool) {
	for id, u := range b.keeping.unsaved {
		if id == "" {
			changed = b.putEmergency(is, u) || changed
			continue
		}
		there, ok := is.Upstreams[id]
		o, ordered := b.upstreams[id]
		if ended := is.Ended[id]; ordered && !ok && u.given && !o.Since.After(ended) { // the clock was put back
			o.Since = after(o.Since, ended)
			b.upstreams[id] = o
		}
		if ok && there.Since.After(u.at) || !ok && !ordered || !ok && is.hasEnded(id, o.Since) {
			continue
		}
		if changed = true; ordered {
			is.Upstreams[id] = savedUpstream{o.Given, o.Admin.String(), o.Weight, o.Group, o.Upstream, o.Holder}
			delete(is.Ended, id)
		} else {
			delete(is.Upstreams, id)
			is.end(id, u.at)
		}
	}
	return changed
}

func (b *Book) putEmergency(is *saved, u unsaving) (changed bool) {
	e, at := b.emergency.Load(), u.at
	if ended := is.Ended[""]; e != nil && is.Emergency == nil && u.given && !e.Since.After(ended) {
		later := *e
		later.Since = after(e.Since, ended)
		e = &later
		b.emergency.Store(e)
	}
	switch {
	case is.Emergency != nil && is.Emergency.Since.After(at):
		return false
	case e != nil && is.Emergency == nil && is.hasEnded("", e.Since):
		return false
	case e != nil:
		is.Emergency = &e.Given
		delete(is.Ended, "")
		return true
	case is.Emergency != nil:
		is.Emergency = nil
		is.end("", at)
		return true
	}
	return false
}

// takeOut takes out of what storage has the orders that were made up to some times.
func (is *saved) takeOut(made map[string]time.Time) (changed bool) {
	for id, at := range made {
		if there, ok := is.Upstreams[id]; ok && !there.Since.After(at) {
			delete(is.Upstreams, id)
			changed = true
		}
	}
	if at, ok := made[""]; ok && is.Emergency != nil && !is.Emergency.Since.After(at) {
		is.Emergency, changed = nil, true
	}
	return changed
}
