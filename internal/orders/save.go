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

// This file contains how orders are saved: behind the change, one saving after the other, and
// again where that fails.

// Saving is a change that holds, on its way to storage. It waits until that has it, for a
// while, and returns why it has not; it is tried again then.
type Saving func() error

// save saves what was not saved.
func (b *Book) save() Saving {
	done := make(chan error, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keeping
	if k.waiting = append(k.waiting, done); !k.saving {
		k.saving = true
		go b.saveAll()
	}
	return func() error {
		slow := time.NewTimer(waitWithin)
		defer slow.Stop()
		select {
		case err := <-done:
			return err
		case <-slow.C:
			return b.isSlow(done)
		}
	}
}

// isSlow is what somebody gets who waits no longer: storage may never answer.
func (b *Book) isSlow(done chan error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keeping
	k.waiting = slices.DeleteFunc(k.waiting, func(c chan error) bool { return c == done })
	select {
	case err := <-done:
		return err
	default:
	}
	k.failing = true
	if k.storage == nil {
		return ErrNotKept
	}
	return fmt.Errorf("'%s': no answer within %s", k.storage.Name(), waitWithin)
}

// saveAll saves until nobody waits for it: one after the other, so that the last state is
// saved last.
func (b *Book) saveAll() {
	for {
		b.mu.Lock()
		waiting := b.keeping.waiting
		b.keeping.waiting = nil
		b.keeping.saving = len(waiting) > 0
		b.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		err := b.saveOnce()
		for _, done := range waiting {
			done <- err
		}
	}
}

// saveOnce saves what was not saved. Where that fails, it is tried again.
func (b *Book) saveOnce() error {
	b.mu.Lock()
	b.adopt()
	s, left := b.keeping.storage, slices.Clone(b.keeping.left)
	b.mu.Unlock()
	if s == nil {
		return ErrNotKept
	}
	ctx, cancel := context.WithTimeout(context.Background(), saveWithin)
	defer cancel()
	err := b.readMoved(ctx, s)
	var wrote merged
	if err == nil && (b.isUnsaved() || len(left) > 0) {
		err = s.Change(ctx, func(data []byte) (_ []byte, err error) {
			wrote, err = b.merge(data, len(left) > 0)
			return wrote.data, err
		})
	}
	if err != nil {
		err = fmt.Errorf("'%s': %w", s.Name(), err)
	} else {
		b.clear(ctx, left, wrote.writing)
	}
	b.hasSaved(wrote.changes, err)
	return err
}

// clear takes the orders that are kept elsewhere now out of the storages that there were
// before.
func (b *Book) clear(ctx context.Context, left []*leaving, writing string) {
	for _, l := range left {
		cleared, err := l.clear(ctx, writing)
		if err != nil {
			if !l.told {
				b.tellFailed(fmt.Errorf("orders that are kept elsewhere now are still in '%s': %w", l.storage.Name(), err))
			}
			l.told = true
			continue
		}
		b.mu.Lock()
		b.keeping.left = slices.DeleteFunc(b.keeping.left, func(o *leaving) bool { return o == l })
		if cleared { // if it was one place after all, in which another process has written: look again
			b.allUnsaved()
			b.saveLater(0)
		}
		b.mu.Unlock()
	}
}

// readMoved takes up what is in a storage that is another one than before.
func (b *Book) readMoved(ctx context.Context, s Storage) error {
	b.mu.Lock()
	moved := b.keeping.moved
	b.mu.Unlock()
	if !moved {
		return nil
	}
	was, err := load(ctx, s)
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

// merge makes what is to be in storage of what is there. With name, that can be told from what
// is anywhere else.
func (b *Book) merge(data []byte, name bool) (m merged, err error) {
	is, err := parseSaved(data)
	if err != nil {
		return m, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m.changes = maps.Clone(b.keeping.unsaved)
	changed := b.put(is)
	if changed {
		m.data, err = json.Marshal(is)
		changed = err == nil && !bytes.Equal(m.data, data)
		m.data = nil
	}
	if err == nil && (changed || name && is.Written == "") {
		is.Written = rand.Text()
		m.data, err = json.Marshal(is)
	}
	m.writing = is.Written
	return m, err
}

// hasSaved notes what was saved, or that nothing was.
func (b *Book) hasSaved(written map[string]unsaving, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := &b.keeping
	if err == nil && len(k.left) == 0 {
		k.pause = 0
	} else if k.again == nil {
		k.pause = min(max(2*k.pause, firstPause), maxPause)
		b.saveLater(k.pause)
	}
	if err != nil {
		k.failing = true
		return
	}
	for id, u := range written {
		if k.unsaved[id] == u {
			delete(k.unsaved, id)
		}
	}
	k.moved = false
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
	if err := b.save()(); err != nil && !failing && !errors.Is(err, ErrNotKept) {
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
func (l *leaving) clear(ctx context.Context, writing string) (cleared bool, err error) {
	err = l.storage.Change(ctx, func(data []byte) ([]byte, error) {
		is, err := parseSaved(data)
		if err != nil || is.Written == writing || !is.takeOut(l.made) {
			return nil, err
		}
		cleared = true
		return json.Marshal(is)
	})
	return cleared, err
}
