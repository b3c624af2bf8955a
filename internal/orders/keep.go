package orders

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// This file contains when orders are saved, and where: in the storage of the configuration
// that runs.

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
	moved       bool                // storage is another one than before, and was not read
	left        []leaving           // storages that there were before
	unsaved     map[string]unsaving // by ID; "" for the emergency
	number      int                 // of the last unsaving
	pause       time.Duration       // after the last failure
	again       *time.Timer         // to the next attempt
	failed      func(error)
	failing     bool
}

// unsaving is a change that was not saved.
type unsaving struct {
	at     time.Time // what is newer in storage stays
	number int
}

// leaving is a storage with orders that have gone elsewhere.
type leaving struct {
	storage Storage
	made    map[string]time.Time // when the last change of them was made
}

const (
	saveWithin = 10 * time.Second // bounds how long a change waits for storage
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
// called and there is another one. As long as there is none, the orders that it has are taken
// up at once. The error is that they cannot be read.
func (b *Book) Keep(ctx context.Context, s Storage) (withdraw func(), err error) {
	b.mu.Lock()
	kept := b.keeping.storage
	b.mu.Unlock()
	if kept == nil || kept.Name() != s.Name() {
		data, err := s.Load(ctx)
		var was *saved
		if err == nil {
			was, err = parseSaved(data)
		}
		if err != nil {
			return nil, fmt.Errorf("'%s': %w; repair it, or remove it to begin without", s.Name(), err)
		}
		b.mu.Lock()
		if b.keeping.storage == nil {
			b.takeUp(was)
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keeping.provisioned = append(b.keeping.provisioned, s)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.keeping.provisioned = slices.DeleteFunc(b.keeping.provisioned, func(o Storage) bool { return o == s })
	}, nil
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
	made := make(map[string]time.Time)
	for id, u := range k.unsaved {
		made[id] = u.at
	}
	for id, o := range b.upstreams {
		made[id] = o.Since
		b.unsaved(id, o.Since)
	}
	if e := b.emergency.Load(); e != nil {
		made[""] = e.Since
		b.unsaved("", e.Since)
	}
	if before != nil && len(made) > 0 {
		k.left = append(k.left, leaving{before, made})
	}
}

// unsaved notes a change that counts as made at a time. mu is held.
func (b *Book) unsaved(id string, at time.Time) {
	k := &b.keeping
	if k.unsaved == nil {
		k.unsaved = make(map[string]unsaving)
	}
	k.number++
	k.unsaved[id] = unsaving{at, k.number}
}

// knowsNewer reports whether there was a change after a time that was not saved. mu is held.
func (b *Book) knowsNewer(id string, than time.Time) bool {
	u, ok := b.keeping.unsaved[id]
	return ok && !than.After(u.at)
}

// save saves what was not saved. Where that fails, it is tried again.
func (b *Book) save() error {
	b.saving.Lock()
	defer b.saving.Unlock()
	b.mu.Lock()
	b.adopt()
	s, left := b.keeping.storage, b.keeping.left
	b.keeping.left = nil
	b.mu.Unlock()
	if s == nil {
		return ErrNotKept
	}
	ctx, cancel := context.WithTimeout(context.Background(), saveWithin)
	defer cancel()
	err := b.readMoved(ctx, s)
	var wrote merged
	if err == nil && b.isUnsaved() {
		err = s.Change(ctx, func(data []byte) (_ []byte, err error) {
			wrote, err = b.merge(data)
			return wrote.data, err
		})
	}
	if err != nil {
		err = fmt.Errorf("'%s': %w", s.Name(), err)
	}
	b.hasSaved(wrote.changes, left, err)
	if err != nil {
		return err
	}
	for _, l := range left {
		if err := l.clear(ctx, wrote.writing); err != nil {
			b.tellFailed(fmt.Errorf("orders that are kept elsewhere now are still in '%s': %w", l.storage.Name(), err))
		}
	}
	return nil
}

// readMoved takes up what is in a storage that is another one than before.
func (b *Book) readMoved(ctx context.Context, s Storage) error {
	b.mu.Lock()
	moved := b.keeping.moved
	b.mu.Unlock()
	if !moved {
		return nil
	}
	data, err := s.Load(ctx)
	if err != nil {
		return err
	}
	was, err := parseSaved(data)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.takeUp(was)
	b.tell()
	return nil
}

func (b *Book) isUnsaved() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.keeping.unsaved) > 0
}

// merged is what is to be in storage.
type merged struct {
	data    []byte // nil: what is there
	writing string // by which it is found again
	changes map[string]unsaving
}

// merge makes what is to be in storage of what is there.
func (b *Book) merge(data []byte) (m merged, err error) {
	is, err := parseSaved(data)
	if err != nil {
		return m, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m.changes = maps.Clone(b.keeping.unsaved)
	if b.put(is) {
		if m.data, err = json.Marshal(is); err != nil || bytes.Equal(m.data, data) {
			m.data = nil
		} else {
			is.Written = rand.Text()
			m.data, err = json.Marshal(is)
		}
	}
	m.writing = is.Written
	return m, err
}

// hasSaved notes what was saved, or that nothing was.
func (b *Book) hasSaved(written map[string]unsaving, left []leaving, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keeping
	if err != nil {
		k.left, k.failing = append(left, k.left...), true
		if k.again == nil {
			k.pause = min(max(2*k.pause, firstPause), maxPause)
			b.saveLater(k.pause)
		}
		return
	}
	for id, u := range written {
		if k.unsaved[id] == u {
			delete(k.unsaved, id)
		}
	}
	k.moved, k.pause = false, 0
	if k.failing && k.failed != nil {
		k.failed(nil)
	}
	k.failing = false
}

// saveLater saves after a while, if that is not going to happen anyway. mu is held.
func (b *Book) saveLater(d time.Duration) {
	if b.keeping.again != nil {
		return
	}
	b.keeping.again = time.AfterFunc(d, func() {
		b.mu.Lock()
		b.keeping.again = nil
		b.mu.Unlock()
		b.saveBehind()
	})
}

// saveBehind saves for nobody who waits for it: that it fails for the first time is told.
func (b *Book) saveBehind() {
	b.mu.Lock()
	failing := b.keeping.failing
	b.mu.Unlock()
	if err := b.save(); err != nil && !failing && !errors.Is(err, ErrNotKept) {
		b.tellFailed(err)
	}
}

func (b *Book) tellFailed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keeping.failed != nil {
		b.keeping.failed(err)
	}
}

// clear takes the orders that have gone elsewhere out of a storage, unless it is the place
// where they have gone, under another name.
func (l *leaving) clear(ctx context.Context, writing string) error {
	return l.storage.Change(ctx, func(data []byte) ([]byte, error) {
		is, err := parseSaved(data)
		if err != nil || is.Written == writing || !is.takeOut(l.made) {
			return nil, err
		}
		return json.Marshal(is)
	})
}
