package orders

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// This file contains where orders are kept: in the storage of the configuration that runs.

// Storage keeps one value over restarts. It is that of a configuration.
type Storage interface {
	// Runs reports whether the configuration runs.
	Runs() bool
	// Name is where the value is, for people: no two places have one name, but one place may
	// have several.
	Name() string
	// Load returns the value, nil where none was saved.
	Load(context.Context) ([]byte, error)
	// Change replaces the value, which nobody else does meanwhile: it is nil where there is
	// none, and stays as it is where change returns nil.
	Change(ctx context.Context, change func([]byte) ([]byte, error)) error
}

// keeping is what a book knows of storage.
type keeping struct {
	provisioned []Storage           // of configurations that run, or may come to run
	storage     Storage             // of the configuration that has run last; nil: none has
	taken       map[string]taking   // by name, while none has run: what was taken up
	moved       bool                // storage is another one than before, and was not read
	left        []*leaving          // storages that there were before
	unsaved     map[string]unsaving // by ID; "" for the emergency
	number      int                 // of the last unsaving
	saving      bool                // somebody does
	waiting     []chan error        // for the next time that it is done
	pause       time.Duration       // after the last failure
	again       *time.Timer         // to the next attempt
	failed      func(error)
	failing     bool
}

// taking is what was taken up from a storage before its configuration runs.
type taking struct {
	at    map[string]time.Time // when that was given, by ID
	users int                  // that have come for it, and were not withdrawn
}

// unsaving is a change that was not saved.
type unsaving struct {
	at     time.Time // what is newer in storage stays
	number int
	given  bool // by an operator of this process
}

// leaving is a storage with orders that have gone elsewhere.
type leaving struct {
	storage Storage
	made    map[string]time.Time // when the last change of them was made
	told    bool                 // that they are still there
}

const (
	saveWithin = 10 * time.Second // bounds how long storage has for a change
	waitWithin = 5 * time.Second  // bounds how long somebody waits for that
	firstPause = time.Second      // after which it is tried again, and then after twice as long
	maxPause   = time.Minute
)

// ErrNotKept is that no configuration runs that says where orders are kept.
var ErrNotKept = errors.New("no configuration runs that has an egress handler, whose storage would keep it")

// Failed has failed called where a change was not saved of which nobody waits to hear, and
// with nil when all is saved again. It must not call the book.
func (b *Book) Failed(failed func(error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeping.failed = failed
}

// Keep has orders kept in the storage of a configuration, once that runs, until withdraw is
// called and there is another one. As long as none has run, the orders that it has hold at
// once; if it is withdrawn before it runs, they do not any more. The error is that they cannot
// be read.
func (b *Book) Keep(ctx context.Context, s Storage) (withdraw func(), err error) {
	name := s.Name()
	b.mu.Lock()
	kept := b.keeping.storage
	b.mu.Unlock()
	was := new(saved)
	if kept == nil || kept.Name() != name {
		if was, err = load(ctx, s); err != nil {
			return nil, fmt.Errorf("'%s': %w; repair it, or remove it to begin without", name, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keeping
	if k.storage == nil {
		t := k.taken[name]
		if t.users++; t.at == nil {
			t.at = make(map[string]time.Time)
		}
		maps.Copy(t.at, b.takeUp(was))
		if k.taken == nil {
			k.taken = make(map[string]taking)
		}
		k.taken[name] = t
	}
	k.provisioned = append(k.provisioned, s)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		k.provisioned = slices.DeleteFunc(k.provisioned, func(o Storage) bool { return o == s })
		t, ok := k.taken[name]
		if t.users--; !ok || t.users > 0 {
			if ok {
				k.taken[name] = t
			}
			return
		}
		delete(k.taken, name)
		b.giveUp(t.at)
	}, nil
}

// load reads what a storage has.
func load(ctx context.Context, s Storage) (*saved, error) {
	data, err := s.Load(ctx)
	if err != nil {
		return nil, err
	}
	return parseSaved(data)
}

// Settle is called when a configuration has begun to run: orders are where it keeps them, and
// what was taken up is told.
func (b *Book) Settle() {
	b.mu.Lock()
	b.adopt()
	b.tell()
	due := len(b.keeping.unsaved) > 0 || b.keeping.moved
	b.mu.Unlock()
	if due {
		b.saveBehind()
	}
}

// adopt finds the storage of the configuration that runs. Orders move there. mu is held.
func (b *Book) adopt() {
	k := &b.keeping
	at := slices.IndexFunc(k.provisioned, Storage.Runs)
	if at < 0 {
		return
	}
	before := k.storage
	k.storage = k.provisioned[at]
	if before != nil && before.Name() == k.storage.Name() {
		return
	}
	k.moved = before != nil // the first one has been taken up
	for name, t := range k.taken {
		if name != k.storage.Name() {
			b.giveUp(t.at)
		}
	}
	k.taken = nil
	k.left = slices.DeleteFunc(k.left, func(l *leaving) bool {
		if l.storage.Name() != k.storage.Name() {
			return false
		}
		for id, at := range l.made { // what was taken back meanwhile is not taken up again
			b.unsaved(id, at)
		}
		return true
	})
	b.allUnsaved()
	made := make(map[string]time.Time)
	for id, u := range k.unsaved {
		made[id] = u.at
	}
	if before != nil && len(made) > 0 {
		k.left = append(k.left, &leaving{storage: before, made: made})
	}
}

// unsaved notes a change that counts as made at a time. mu is held.
func (b *Book) unsaved(id string, at time.Time) {
	k := &b.keeping
	if k.unsaved == nil {
		k.unsaved = make(map[string]unsaving)
	}
	k.number++
	k.unsaved[id] = unsaving{at, k.number, k.unsaved[id].given}
}

// allUnsaved notes all orders. mu is held.
func (b *Book) allUnsaved() {
	for id, o := range b.upstreams {
		b.unsaved(id, o.Since)
	}
	if e := b.emergency.Load(); e != nil {
		b.unsaved("", e.Since)
	}
}

// knowsNewer reports whether there was a change after a time that was not saved. mu is held.
func (b *Book) knowsNewer(id string, than time.Time) bool {
	u, ok := b.keeping.unsaved[id]
	return ok && !than.After(u.at)
}
