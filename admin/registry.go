package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/explain"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Entry is a handler that can be asked. Two are the same if they are equal.
type Entry interface {
	// Place is what people know the handler by: its name, or the addresses of its server,
	// and which of the handlers there it is, counted from 1: `:8080#1`.
	Place() string
	// Explain tells what would become of a request. The error is about what was asked.
	Explain(context.Context, *explain.Request) (*explain.Explanation, error)
	Views
	Steers
}

// Steers are what can be done to a handler while it serves.
type Steers interface {
	// ResetDestination forgets that a destination (host:port) has failed, and reports how
	// often that was known.
	ResetDestination(dest string) int
	// FlushNames forgets what is known of a name, in its canonical spelling, or with "" of
	// all, and reports of how many.
	FlushNames(name string) int
	// CheckUpstream has an upstream checked now, and waits for the result; found tells
	// whether there is one with this id.
	CheckUpstream(ctx context.Context, id string) (found bool, c *upstream.Checked, err error)
	// Emit emits an event, if anybody has subscribed to it.
	Emit(name string, data map[string]any)
}

// Views are what a handler tells of itself. None of it keeps requests waiting.
type Views interface {
	// Report tells what the handler is now, but for what follows.
	Report() core.Report
	// Rules tells what its access rules have decided.
	Rules() acl.Report
	// Destinations are those that have failed lately, on all ways.
	Destinations() []destination.Failing
	// Names tells of the cache of its resolver.
	Names() dnscache.Report
	// Look tells what is remembered of a name, in its canonical spelling.
	Look(name string) []dnscache.Known
	// Users are those that may log in; none where nobody has to.
	Users() []string
	// Exchanges are those of a user that are under way, where they are counted.
	Exchanges(user string) (n int, counted bool)
	// LastReload tells what was taken over from the configuration before; nil for nothing.
	LastReload() *Reload
}

// Registry holds the handlers that are provisioned, in the order in which they were.
type Registry struct {
	mu      sync.Mutex
	entries []Entry // guarded by mu
}

// Handlers are those of this process that serve, or are about to.
var Handlers Registry

// Add takes a handler in, until the function that it returns is called.
func (r *Registry) Add(h Entry) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, h)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.entries = slices.DeleteFunc(r.entries, func(e Entry) bool { return e == h })
	}
}

// ByPlace returns the handlers by the place at which they serve. While a reload is
// under way there are two at a place; the one that serves still is the older.
func (r *Registry) ByPlace() (found map[string]Entry, places []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found = make(map[string]Entry)
	for _, h := range r.entries {
		if place := h.Place(); found[place] == nil {
			found[place] = h
			places = append(places, place)
		}
	}
	return found, places
}

// After returns the handler that takes over at the place of h; nil if there is none.
func (r *Registry) After(h Entry) Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := slices.Index(r.entries, h); at >= 0 {
		for _, e := range r.entries[at+1:] {
			if e.Place() == h.Place() {
				return e
			}
		}
	}
	return nil
}

// Find returns the handler at a place. Addresses without a number will do where they
// have one handler, and no place at all where there is one handler in all.
func (r *Registry) Find(place string) (Entry, error) {
	found, places := r.ByPlace()
	slices.Sort(places) // the order in which Caddy provisions servers is not always the same
	var matching []string
	for _, p := range places {
		if server, _, _ := strings.Cut(p, "#"); place == "" || place == p || place == server {
			matching = append(matching, p)
		}
	}
	switch {
	case len(matching) == 1:
		return found[matching[0]], nil
	case len(places) == 0:
		return nil, errors.New("there is no egress handler in the configuration")
	case len(matching) == 0:
		return nil, fmt.Errorf("there is no egress handler '%s'; there are: %s", plaintext.Escaped(place), strings.Join(places, ", "))
	}
	return nil, fmt.Errorf("say which egress handler is meant: %s", strings.Join(matching, ", "))
}

// All are the handlers, in the order in which they were provisioned.
func (r *Registry) All() []Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.entries)
}
