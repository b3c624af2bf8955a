package orders

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// This file contains what storage has, and how orders get there and back. Other processes may
// use it too: each changes there only what it was told to change, and nothing that is newer.

// saved is what storage has.
type saved struct {
	Emergency *Given                   `json:"emergency,omitempty"`
	Upstreams map[string]savedUpstream `json:"upstreams,omitempty"`
	Written   string                   `json:"written,omitempty"` // no two writings have the same
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
// over. mu is held.
func (b *Book) takeUp(was *saved) {
	now := time.Now()
	for id, s := range was.Upstreams {
		admin, _ := health.ParseAdmin(s.State)
		o := Order{s.Given, admin, s.Weight, s.Group, s.Upstream, s.Holder}
		known, had := b.upstreams[id]
		switch {
		case b.knowsNewer(id, s.Since) || had && !s.Since.After(known.Since):
			continue
		case s.isOver(now):
			b.unsaved(id, s.Since)
			b.untold = append(b.untold, Change{ID: id, Order: &o, Ended: true})
			continue
		case b.upstreams == nil:
			b.upstreams = make(map[string]Order)
		}
		b.upstreams[id] = o
		b.apply(id)
		b.untold = append(b.untold, Change{ID: id, Order: &o, TakenUp: true})
	}
	if g := was.Emergency; g != nil && !b.knowsNewer("", g.Since) {
		known, e := b.emergency.Load(), &Emergency{*g}
		switch {
		case known != nil && !g.Since.After(known.Since):
		case g.isOver(now):
			b.unsaved("", g.Since)
			b.untold = append(b.untold, Change{Emergency: e, Ended: true})
		default:
			b.emergency.Store(e)
			b.untold = append(b.untold, Change{Emergency: e, TakenUp: true})
		}
	}
	b.await()
}

// put changes what storage has to what is known and was not saved, and reports whether that
// changes anything. mu is held.
func (b *Book) put(is *saved) (changed bool) {
	for id, u := range b.keeping.unsaved {
		if id == "" {
			e := b.emergency.Load()
			if is.Emergency != nil && is.Emergency.Since.After(u.at) || is.Emergency == nil && e == nil {
				continue
			}
			if is.Emergency, changed = nil, true; e != nil {
				is.Emergency = &e.Given
			}
			continue
		}
		there, ok := is.Upstreams[id]
		o, ordered := b.upstreams[id]
		if ok && there.Since.After(u.at) || !ok && !ordered {
			continue
		}
		if changed = true; ordered {
			is.Upstreams[id] = savedUpstream{o.Given, o.Admin.String(), o.Weight, o.Group, o.Upstream, o.Holder}
		} else {
			delete(is.Upstreams, id)
		}
	}
	return changed
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
