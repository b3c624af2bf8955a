package orders

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Book is a set of orders. The zero value has none. It is safe for concurrent use.
type Book struct {
	emergency atomic.Pointer[Emergency] // nil: none; written with mu held

	mu        sync.Mutex
	upstreams map[string]Order      // by ID; guarded by mu
	attached  map[string][]Attached // by ID, the last one behind; guarded by mu
	timer     *time.Timer           // to the next end; guarded by mu
	told      func(Change)          // guarded by mu
	untold    []Change              // until a configuration runs; guarded by mu
	keeping   keeping               // guarded by mu
}

// Attached is an upstream that is there. Its methods must not call the book.
type Attached interface {
	// Obey is called with what holds for the upstream, at once and whenever that changes.
	Obey(Order)
	// Holder tells which of several accounts it is, and whether the configuration that runs
	// has it.
	Holder() (of Holder, runs bool)
	// HasRun reports whether a configuration with it runs, or has run.
	HasRun() bool
}

// Of is that of this process.
var Of Book

// Emergency is the order by which everything new is denied; nil where there is none. It
// takes no lock.
func (b *Book) Emergency() *Emergency { return b.emergency.Load() }

// Upstream is what is ordered of an upstream, and whether anything is.
func (b *Book) Upstream(id string) (Order, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.upstreams[id]
	return o, ok
}

// Upstreams are all orders of upstreams, by ID, those of absent ones included.
func (b *Book) Upstreams() map[string]Order {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.upstreams)
}

// IsAttached reports whether an upstream is there.
func (b *Book) IsAttached(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.attached[id]) > 0
}

// Attach has an upstream obey what is ordered of it, until detach is called.
func (b *Book) Attach(id string, a Attached) (detach func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.attached == nil {
		b.attached = make(map[string][]Attached)
	}
	b.attached[id] = append(b.attached[id], a)
	a.Obey(b.holding(id))
	return func() { b.detach(id, a) }
}

func (b *Book) detach(id string, a Attached) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.DeleteFunc(b.attached[id], func(o Attached) bool { return o == a })
	if b.attached[id] = all; len(all) == 0 {
		delete(b.attached, id)
	}
	if slices.ContainsFunc(all, Attached.HasRun) {
		b.look(id)
		return
	}
	if o, ok := b.upstreams[id]; ok && a.HasRun() {
		b.tell(Change{ID: id, Order: &o, Left: true})
	}
}

// Look has orders follow their upstreams to another password, or stay with the one of them
// that they were given to. It is called when upstreams have come or gone.
func (b *Book) Look() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.upstreams {
		b.look(id)
	}
}

// NotAlone notes that the upstream of an order has gone while there are other accounts of its
// user at its address: the only one of these, some day, is not that one.
func (b *Book) NotAlone(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ordered := b.upstreams[id]
	if _, has := b.holder(id); !ordered || has || !o.Holder.Alone {
		return
	}
	o.Holder.Alone = false
	b.hold(id, o)
}

// hold has an order held as it is now by whom it was given to. mu is held.
func (b *Book) hold(id string, o Order) {
	b.upstreams[id] = o
	b.unsaved(id, o.Since)
	b.saveLater(0)
}

// look is called with mu held.
func (b *Book) look(id string) {
	o, ordered := b.upstreams[id]
	if !ordered {
		return
	}
	if holder, ok := b.holder(id); ok && holder != o.Holder {
		o.Holder = holder
		b.hold(id, o)
	}
}

// holder is the upstream with an ID in the configuration that runs. mu is held.
func (b *Book) holder(id string) (h Holder, ok bool) {
	for _, a := range slices.Backward(b.attached[id]) {
		if h, ok = a.Holder(); ok {
			return h, true
		}
	}
	return Holder{}, false
}

// holding is what holds for an upstream. mu is held.
func (b *Book) holding(id string) Order {
	if o, ok := b.upstreams[id]; ok {
		return o
	}
	return asConfigured
}

// Tell has told called with each change, one after the other and outside of all locks but
// those of the book: it must not call the book.
func (b *Book) Tell(told func(Change)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = told
}

// Change changes what is ordered of an upstream, which is start where nothing is. An order
// under which it is as configured takes the one before back. It returns the order that was
// asked for, and of a change how it is saved; saving is nil where nothing has changed. err is
// that of change, with which nothing is changed.
func (b *Book) Change(id string, start Order, change func(*Order) error) (o Order, saving Saving, err error) {
	b.mu.Lock()
	before, had := b.upstreams[id]
	if o = start; had {
		o = before
	}
	if err := change(&o); err != nil {
		b.mu.Unlock()
		return o, nil, err
	}
	if holder, ok := b.holder(id); ok {
		o.Holder = holder
	} else if all := b.attached[id]; len(all) > 0 { // its configuration does not run yet
		o.Holder, _ = all[len(all)-1].Holder()
	}
	o.Since = after(o.Since, before.Since)
	made := Change{ID: id, Order: &o, By: o.By}
	switch {
	case !o.ChangesNothing():
		if b.upstreams == nil {
			b.upstreams = make(map[string]Order)
		}
		b.upstreams[id] = o
	case had:
		delete(b.upstreams, id)
		made.Order, made.Ended = &before, true
	default:
		b.mu.Unlock()
		return o, nil, nil
	}
	b.changed(made, o.Since)
	b.mu.Unlock()
	return o, b.save(), nil
}

// SetEmergency orders the emergency, or with nil takes it back. by is who has done so. It
// returns how that is saved: nil where there was nothing to take back.
func (b *Book) SetEmergency(e *Emergency, by string) Saving {
	b.mu.Lock()
	before := b.emergency.Load()
	at := time.Now()
	if e != nil {
		at = e.Since
	}
	if before != nil {
		at = after(at, before.Since)
	}
	made := Change{Emergency: e, By: by}
	switch {
	case e != nil:
		since := *e
		since.Since = at
		made.Emergency = &since
		b.emergency.Store(&since)
	case before != nil:
		made.Emergency, made.Ended = before, true
		b.emergency.Store(nil)
	default:
		if b.keeping.storage == nil {
			b.unsaved("", at) // one that is in storage is older
		}
		b.mu.Unlock()
		return nil
	}
	b.changed(made, at)
	b.mu.Unlock()
	return b.save()
}

// after is a time, but behind another one: what was ordered later has to be seen as such.
func after(t, other time.Time) time.Time {
	if t.After(other) {
		return t
	}
	return other.Add(time.Nanosecond)
}

// changed applies and tells a change, which counts as made at a time. mu is held.
func (b *Book) changed(c Change, at time.Time) {
	b.unsaved(c.ID, at)
	u := b.keeping.unsaved[c.ID]
	u.given = true
	b.keeping.unsaved[c.ID] = u
	b.apply(c.ID)
	b.await()
	b.tell(c)
}

// apply has an upstream obey. mu is held.
func (b *Book) apply(id string) {
	for _, a := range b.attached[id] {
		a.Obey(b.holding(id))
	}
}

// tell tells a change, behind what was not told yet. mu is held.
func (b *Book) tell(c ...Change) {
	c = append(b.untold, c...)
	b.untold = nil
	for i := range c {
		if b.told != nil {
			b.told(c[i])
		}
	}
}

// await sets the timer to the next end. mu is held.
func (b *Book) await() {
	var next time.Time
	sooner := func(g *Given) {
		if !g.Until.IsZero() && (next.IsZero() || g.Until.Before(next)) {
			next = g.Until
		}
	}
	for _, o := range b.upstreams {
		sooner(&o.Given)
	}
	if e := b.emergency.Load(); e != nil {
		sooner(&e.Given)
	}
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if !next.IsZero() {
		b.timer = time.AfterFunc(max(time.Until(next), 0), b.endThoseOver)
	}
}

// endThoseOver takes back the orders whose time is over. In storage, that ends these orders
// and none that was given since, by another process.
func (b *Book) endThoseOver() {
	b.mu.Lock()
	now := time.Now()
	for _, id := range slices.Sorted(maps.Keys(b.upstreams)) {
		if o := b.upstreams[id]; o.isOver(now) {
			delete(b.upstreams, id)
			b.changed(Change{ID: id, Order: &o, Ended: true}, o.Since)
		}
	}
	if e := b.emergency.Load(); e != nil && e.isOver(now) {
		b.emergency.Store(nil)
		b.changed(Change{Emergency: e, Ended: true}, e.Since)
	}
	b.await()
	b.mu.Unlock()
	b.saveBehind()
}
