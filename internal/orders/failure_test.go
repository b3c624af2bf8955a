package orders

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// This file tests loads that fail, storages that do, and processes that share one.

// provision has a configuration with a storage that does not run yet.
func (b *Book) provision(t *testing.T, d *disk) (m *memory, withdraw func()) {
	t.Helper()
	m = &memory{disk: d}
	m.idle.Store(true)
	withdraw, err := b.Keep(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return m, withdraw
}

// A configuration that does not come to run leaves no trace: what was in its storage does not
// hold for the next one. What an operator has ordered meanwhile does.
func TestBook_FailedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var old Book
		first := &disk{name: "first"}
		old.keep(t, first)
		set(t, &old, "a", Order{Given: by("old", 0), Admin: health.Drain, Weight: 1})
		set(t, &old, "b", Order{Given: by("old", 0), Admin: health.Drain, Weight: 1})
		set(t, &old, "short", Order{Given: by("old", time.Minute), Admin: health.Drain, Weight: 1})
		emergency(t, &old, by("old", 0))
		value := first.read()
		first = &disk{name: "first", value: value}
		time.Sleep(2 * time.Minute)

		var b Book
		var told []Change
		b.Tell(func(c Change) { told = append(told, c) })
		var up obeying
		detach := b.Attach("a", &up)
		_, withdraw := b.provision(t, first)
		_, again := b.provision(t, first) // its second handler
		if up.now.Admin != health.Drain || b.Emergency() == nil {
			t.Error("what is in storage does not hold at once")
		}
		withdraw()
		if len(b.Upstreams()) != 2 || b.Emergency() == nil {
			t.Error("it goes with the first handler")
		}
		again()
		if len(b.Upstreams()) != 0 || b.Emergency() != nil || up.now.Admin != health.Ready {
			t.Errorf("it holds on: %v, %v, %v", b.Upstreams(), b.Emergency(), up.now)
		}
		second := &disk{name: "second"}
		stop := b.keep(t, second)
		if is := second.has(t); len(is.Upstreams) != 0 || is.Emergency != nil || len(told) != 0 {
			t.Errorf("the next configuration has it: %s, told: %+v", second.read(), told)
		}
		if string(first.read()) != string(value) {
			t.Errorf("storage was changed: %s", first.read())
		}
		stop()
		detach()

		var changed Book
		_, withdraw = changed.provision(t, first)
		_, _, _ = changed.Change("a", asConfigured, drain("new"))
		withdraw()
		changed.keep(t, second)
		if is := second.has(t); len(is.Upstreams) != 1 || is.Upstreams["a"].By != "new" {
			t.Errorf("what was ordered meanwhile: %s", second.read())
		}

		// One that is tried and fails before another one runs.
		var runs, other Book
		m, _ := runs.provision(t, first)
		third := &disk{name: "third"}
		other.keep(t, third)
		set(t, &other, "z", Order{Given: by("z", 0), Admin: health.Drain, Weight: 1})
		_, withdraw = runs.provision(t, third)
		withdraw()
		m.idle.Store(false)
		runs.Settle()
		if len(runs.Upstreams()) != 2 || runs.Emergency() == nil {
			t.Errorf("%v, %v", runs.Upstreams(), runs.Emergency())
		}
	})
}

// Orders that could not be taken out of the storage before are taken out later.
func TestBook_ClearsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		var failed []error
		b.Failed(func(err error) { failed = append(failed, err) })
		one, two := &disk{name: "one"}, &disk{name: "two"}
		stop := b.keep(t, one)
		set(t, &b, "a", Order{Given: by("x", 0), Admin: health.Drain, Weight: 1})
		emergency(t, &b, by("x", 0))
		one.fail(errors.New("away"))
		next := b.keep(t, two)
		stop()
		b.Settle()
		time.Sleep(5 * maxPause)
		synctest.Wait()
		if is := two.has(t); is.Emergency == nil || len(is.Upstreams) != 1 || one.has(t).Emergency == nil {
			t.Errorf("%s, %s", one.read(), two.read())
		}
		if len(failed) != 1 || failed[0].Error() != "orders that are kept elsewhere now are still in 'one': away" {
			t.Errorf("it is told %v", failed)
		}
		one.fail(nil)
		time.Sleep(maxPause)
		synctest.Wait()
		if is := one.has(t); is.Emergency != nil || len(is.Upstreams) != 0 {
			t.Errorf("they are there still: %s", one.read())
		}
		if is := two.has(t); is.Emergency == nil || len(is.Upstreams) != 1 {
			t.Errorf("they have gone: %s", two.read())
		}

		// What was taken back before the old place could be cleared is not taken up there.
		one, two = two, &disk{name: "three"}
		one.fail(errors.New("away"))
		stop = b.keep(t, two)
		next()
		b.Settle()
		if err := wait(b.SetEmergency(nil, "x")); err != nil {
			t.Error(err)
		}
		one.fail(nil)
		b.keep(t, one)
		stop()
		b.Settle()
		time.Sleep(maxPause)
		synctest.Wait()
		if is := one.has(t); b.Emergency() != nil || is.Emergency != nil || len(is.Upstreams) != 1 || len(two.has(t).Upstreams) != 0 {
			t.Errorf("%v, %s, %s", b.Emergency(), one.read(), two.read())
		}
	})
}

// hanging is a storage that does not answer, whatever becomes of the context.
type hanging struct {
	memory
	answer chan struct{}
}

func (h *hanging) Change(ctx context.Context, change func([]byte) ([]byte, error)) error {
	<-h.answer
	return h.memory.Change(ctx, change)
}

// Storage that does not answer delays no order, and nobody waits for it for long.
func TestBook_StorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		var failed []error
		b.Failed(func(err error) { failed = append(failed, err) })
		s := &hanging{memory{disk: &disk{name: "here"}}, make(chan struct{})}
		if _, err := b.Keep(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		b.Settle()
		var up obeying
		b.Attach("a", &up)
		began := time.Now()
		first := b.SetEmergency(&Emergency{by("x", 0)}, "x")
		_, second, _ := b.Change("a", asConfigured, drain("x"))
		if b.Emergency() == nil || up.now.Admin != health.Drain || time.Since(began) != 0 {
			t.Error("it does not hold at once")
		}
		for _, saving := range []Saving{first, second} {
			if err := saving(); err == nil || err.Error() != "'here': no answer within 5s" {
				t.Error(err)
			}
		}
		for range 10 {
			b.Settle() // reloads
		}
		if took := time.Since(began); took > 12*waitWithin {
			t.Errorf("it took %s", took)
		}
		close(s.answer)
		synctest.Wait()
		if is := s.has(t); is.Emergency == nil || len(is.Upstreams) != 1 {
			t.Errorf("%s", s.read())
		}
		if len(failed) != 1 || failed[0] != nil || len(b.keeping.waiting) != 0 {
			t.Errorf("told %v; %d wait", failed, len(b.keeping.waiting))
		}
	})
}

// What one process takes back, another one that has taken it up does not write again, under
// whatever name it knows the place. What it orders itself it does write.
func TestBook_TakenBackElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b Book
		d := &disk{name: "shared"}
		a.keep(t, d)
		up := new(obeying)
		b.Attach("u", up)
		set(t, &a, "u", Order{Given: by("a", 0), Admin: health.Drain, Weight: 1})
		set(t, &a, "v", Order{Given: by("a", time.Hour), Admin: health.Drain, Weight: 1})
		emergency(t, &a, by("a", 0))
		stop := b.keep(t, d)
		time.Sleep(time.Second)
		set(t, &a, "u", Order{Given: by("a", 0), Admin: health.Ready, Weight: 1})
		set(t, &a, "v", Order{Given: by("a", 0), Admin: health.Ready, Weight: 1})
		if err := wait(a.SetEmergency(nil, "a")); err != nil {
			t.Error(err)
		}
		expect := func(when string, upstreams int) {
			t.Helper()
			if is := d.has(t); is.Emergency != nil || len(is.Upstreams) != upstreams {
				t.Errorf("%s: %s", when, d.read())
			}
		}
		up.holder.Mark = "else" // another password
		b.Look()
		time.Sleep(time.Minute)
		synctest.Wait()
		expect("another password", 0)
		for i := range 3 {
			next, err := b.Keep(t.Context(), &memory{disk: d, as: fmt.Sprint(i)})
			if err != nil {
				t.Fatal(err)
			}
			stop()
			b.Settle()
			stop = next
			expect("a reload", 0)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		expect("the end of one", 0)
		set(t, &b, "u", Order{Given: by("b", 0), Admin: health.Drain, Weight: 0.5})
		expect("an order of its own", 1)
		emergency(t, &b, by("b", 0))
		if d.has(t).Emergency == nil || d.has(t).Ended[""] != (time.Time{}) {
			t.Errorf("an emergency of its own: %s", d.read())
		}
		for i := range maxEnded + 10 {
			id := fmt.Sprint(i)
			time.Sleep(time.Second)
			set(t, &b, id, Order{Given: by("b", 0), Admin: health.Drain, Weight: 1})
			set(t, &b, id, Order{Given: by("b", 0), Admin: health.Ready, Weight: 1})
		}
		if ended := d.has(t).Ended; len(ended) != maxEnded || ended[fmt.Sprint(maxEnded+9)].IsZero() {
			t.Errorf("%d ended orders are remembered", len(ended))
		}
	})
}

// What is ordered after the clock was put back is saved, although an order that was taken back
// seems to be younger.
func TestBook_ClockPutBack(t *testing.T) {
	var b Book
	d := &disk{name: "here"}
	b.keep(t, d)
	set(t, &b, "u", Order{Given: by("x", 0), Admin: health.Drain, Weight: 1})
	set(t, &b, "u", Order{Given: by("x", 0), Admin: health.Ready, Weight: 1})
	emergency(t, &b, by("x", 0))
	if err := wait(b.SetEmergency(nil, "x")); err != nil {
		t.Error(err)
	}
	before := by("x", 0)
	before.Since = before.Since.Add(-time.Hour)
	set(t, &b, "u", Order{Given: before, Admin: health.Drain, Weight: 1})
	emergency(t, &b, before)
	if is := d.has(t); len(is.Upstreams) != 1 || is.Emergency == nil {
		t.Errorf("%s", d.read())
	}
}
