package orders

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

func by(who string, d time.Duration) Given {
	g := Given{By: who, Since: time.Now()}
	if d > 0 {
		g.Until = g.Since.Add(d)
	}
	return g
}

func drain(who string) func(*Order) error {
	return func(o *Order) error {
		o.Given, o.Admin = by(who, 0), health.Drain
		return nil
	}
}

// set replaces what is ordered of an upstream.
func set(t *testing.T, b *Book, id string, o Order) {
	t.Helper()
	_, saving, err := b.Change(id, asConfigured, func(was *Order) error { *was = o; return nil })
	if err != nil {
		t.Error(err)
	}
	_ = wait(saving)
}

// wait is what became of a change in storage.
func wait(saving Saving) error {
	if saving == nil {
		return nil
	}
	return saving()
}

func emergency(t *testing.T, b *Book, g Given) {
	t.Helper()
	if err := wait(b.SetEmergency(&Emergency{g}, g.By)); err != nil {
		t.Error(err)
	}
}

// obeying is an upstream.
type obeying struct {
	mu     sync.Mutex
	now    Order
	holder Holder
}

func (o *obeying) Obey(now Order) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = now
}

func (o *obeying) Holder() (Holder, bool) { return o.holder, true }
func (o *obeying) HasRun() bool           { return true }

// An order holds for whoever is attached, ends by itself, and each change is told once.
func TestBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		var mu sync.Mutex // the ends of orders are told by a timer
		var told []Change
		b.Tell(func(c Change) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, c)
		})
		var now [2]obeying
		for i := range now {
			defer b.Attach("a", &now[i])()
		}
		expect := func(when string, admin health.Admin, weight float64, changes int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for i := range now {
				now[i].mu.Lock()
				o := now[i].now
				now[i].mu.Unlock()
				if o.Admin != admin || o.Weight != weight {
					t.Errorf("%s: %+v", when, o)
				}
			}
			if len(told) != changes {
				t.Errorf("%s: told %d times: %+v", when, len(told), told)
			}
		}
		set := func(id string, o Order) {
			t.Helper()
			set(t, &b, id, o)
		}
		expect("at first", health.Ready, 1, 0)
		set("a", Order{Given: by("x", time.Minute), Admin: health.Drain, Weight: 1})
		expect("drained", health.Drain, 1, 1)
		set("b", Order{Given: by("x", 0), Admin: health.Maint, Weight: 1})
		expect("another one", health.Drain, 1, 2)
		set("a", Order{Given: by("y", time.Hour), Admin: health.Drain, Weight: 0.5})
		time.Sleep(2 * time.Minute)
		expect("the end of the first order", health.Drain, 0.5, 3)
		time.Sleep(time.Hour)
		expect("the end", health.Ready, 1, 4)
		if last := told[3]; !last.Ended || last.By != "" || last.Order.By != "y" {
			t.Errorf("%+v", last)
		}
		set("a", Order{Given: by("z", 0), Admin: health.Ready, Weight: 1})
		expect("nothing to take back", health.Ready, 1, 4)
		set("b", Order{Given: by("z", 0), Admin: health.Ready, Weight: 1})
		if last := told[4]; !last.Ended || last.By != "z" || last.Order.By != "x" || last.ID != "b" {
			t.Errorf("%+v", last)
		}
		if len(b.Upstreams()) != 0 {
			t.Error(b.Upstreams())
		}
	})
}

func TestBook_Emergency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		var told atomic.Int32
		b.Tell(func(Change) { told.Add(1) })
		if saving := b.SetEmergency(nil, "x"); saving != nil || told.Load() != 0 {
			t.Error("there was none to take back")
		}
		b.SetEmergency(&Emergency{by("x", time.Minute)}, "x")
		if e := b.Emergency(); e == nil || e.By != "x" {
			t.Error(e)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.Emergency() != nil || told.Load() != 2 {
			t.Error("it goes on, or nobody was told")
		}
	})
}
