package orders

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// disk is a place that storages of several processes and configurations have.
type disk struct {
	name string

	mu    sync.Mutex
	value []byte
	err   error
	saves int
}

func (d *disk) read() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.value
}

func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// has are the orders that are there.
func (d *disk) has(t *testing.T) *saved {
	t.Helper()
	is, err := parseSaved(d.read())
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// memory is the storage of a configuration.
type memory struct {
	*disk
	idle atomic.Bool // the configuration does not run
	as   string      // another name of it
}

func (m *memory) Runs() bool   { return !m.idle.Load() }
func (m *memory) Name() string { return m.name + m.as }

func (m *memory) Load(context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value, m.err
}

func (m *memory) Change(_ context.Context, change func([]byte) ([]byte, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	value, err := change(m.value)
	if err == nil && value != nil {
		m.saves++
		m.value = value
	}
	return err
}

// keep runs a configuration with a storage at a place.
func (b *Book) keep(t *testing.T, d *disk) (stop func()) {
	t.Helper()
	stop, err := b.Keep(t.Context(), &memory{disk: d})
	if err != nil {
		t.Fatal(err)
	}
	b.Settle()
	return stop
}

// Another process takes up what was saved, but for what is over, and tells that; an order that
// was not saved holds all the same.
func TestBook_Storage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		d := new(disk)
		b.keep(t, d)
		set(t, &b, "short", Order{Given: by("x", time.Minute), Admin: health.Drain, Weight: 1})
		set(t, &b, "long", Order{Given: by("x", time.Hour), Admin: health.Maint, Weight: 0.25, Group: "g", Upstream: "http://u"})
		emergency(t, &b, by("x", 0))
		b.keep(t, d) // a reload
		value := d.read()
		time.Sleep(2 * time.Minute)

		var next Book
		var told []Change
		next.Tell(func(c Change) { told = append(told, c) })
		copied := &disk{value: value}
		next.keep(t, copied)
		got, _ := next.Upstream("long")
		if _, ok := next.Upstream("short"); ok || next.Emergency() == nil || got.Admin != health.Maint || got.Weight != 0.25 || got.Group != "g" || got.Upstream != "http://u" {
			t.Errorf("%+v, %+v", next.Upstreams(), got)
		}
		next.Tell(nil)
		var up, ended int
		for _, c := range told {
			if c.TakenUp {
				up++
			}
			if c.Ended && c.By == "" && c.ID == "short" {
				ended++
			}
		}
		if len(told) != 3 || up != 2 || ended != 1 {
			t.Errorf("told: %+v", told)
		}
		if is := copied.has(t); len(is.Upstreams) != 1 {
			t.Errorf("what is over is in storage still: %+v", is)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, ok := next.Upstream("long"); ok {
			t.Error("the time of a saved order does not end")
		}

		d.fail(errors.New("disk full"))
		if _, saving, _ := b.Change("c", asConfigured, drain("x")); wait(saving) == nil {
			t.Error("that it was not saved is not told")
		}
		if _, ok := b.Upstream("c"); !ok {
			t.Error("it does not hold")
		}
		if err := wait(b.SetEmergency(nil, "x")); err == nil || b.Emergency() != nil {
			t.Error("that it was not saved is not told, or it does not hold")
		}
	})
}

// What could not be saved is tried again, ends too, and both are told.
func TestBook_TriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		var failed []error
		b.Failed(func(err error) { failed = append(failed, err) })
		d := &disk{name: "here"}
		b.keep(t, d)
		emergency(t, &b, by("x", 0))
		set(t, &b, "a", Order{Given: by("x", time.Minute), Admin: health.Drain, Weight: 1})
		d.fail(errors.New("disk full"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(failed) != 1 || failed[0] == nil || failed[0].Error() != "'here': disk full" {
			t.Errorf("an end that was not saved: %v", failed)
		}
		if err := wait(b.SetEmergency(nil, "x")); err == nil {
			t.Error("saved")
		}
		d.fail(nil)
		time.Sleep(maxPause)
		synctest.Wait()
		if is := d.has(t); is.Emergency != nil || len(is.Upstreams) != 0 {
			t.Errorf("%+v", is)
		}
		if len(failed) != 2 || failed[1] != nil {
			t.Errorf("that it is saved again: %v", failed)
		}
	})
}

// Orders are kept where the configuration that runs keeps them, whatever was provisioned
// since, and move with it.
func TestBook_Moves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		one, two := &disk{name: "one"}, &disk{name: "two"}
		stop := b.keep(t, one)
		set(t, &b, "a", Order{Given: by("x", 0), Admin: health.Drain, Weight: 1})
		failing := &memory{disk: two}
		failing.idle.Store(true)
		withdraw, err := b.Keep(t.Context(), failing)
		if err != nil {
			t.Fatal(err)
		}
		emergency(t, &b, by("x", 0))
		withdraw()
		if one.has(t).Emergency == nil || two.read() != nil {
			t.Errorf("kept where a configuration would that does not run: %s, %s", one.read(), two.read())
		}

		next, err := b.Keep(t.Context(), &memory{disk: two})
		if err != nil {
			t.Fatal(err)
		}
		stop()
		b.Settle()
		if is := two.has(t); is.Emergency == nil || len(is.Upstreams) != 1 {
			t.Errorf("a reload with another storage leaves orders behind: %s", two.read())
		}
		if is := one.has(t); is.Emergency != nil || len(is.Upstreams) != 0 {
			t.Errorf("they are in the one before still: %s", one.read())
		}
		if err := wait(b.SetEmergency(nil, "x")); err != nil {
			t.Error(err)
		}
		b.keep(t, one)
		next()
		b.Settle()
		if is := one.has(t); is.Emergency != nil || len(is.Upstreams) != 1 || b.Emergency() != nil {
			t.Errorf("back again: %s", one.read())
		}
	})
}

// A storage that has another name in each configuration keeps what it has.
func TestBook_NamesOfStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Book
		d := new(disk)
		stop := b.keep(t, d)
		emergency(t, &b, by("x", 0))
		for range 3 {
			next, err := b.Keep(t.Context(), &memory{disk: d, as: rand.Text()})
			if err != nil {
				t.Fatal(err)
			}
			stop()
			b.Settle()
			if d.has(t).Emergency == nil {
				t.Fatalf("%s", d.read())
			}
			stop = next
			set(t, &b, "a", Order{Given: by("x", 0), Admin: health.Drain, Weight: 1})
		}
		if is := d.has(t); is.Emergency == nil || len(is.Upstreams) != 1 {
			t.Errorf("%s", d.read())
		}
	})
}

// What is ordered while nobody keeps it is not said to be saved, is saved as soon as somebody
// does, and what storage has does not come before it.
func TestBook_NotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var old Book
		d := new(disk)
		old.keep(t, d)
		emergency(t, &old, by("old", 0))
		time.Sleep(time.Second)

		var off Book
		if off.SetEmergency(nil, "x") != nil {
			t.Error("there was none")
		}
		copied := &disk{value: d.read()}
		off.keep(t, copied)
		if off.Emergency() != nil || copied.has(t).Emergency != nil {
			t.Error("an emergency is on that was turned off after it was saved")
		}

		var on Book
		if err := wait(on.SetEmergency(&Emergency{by("new", 0)}, "x")); !errors.Is(err, ErrNotKept) {
			t.Errorf("it is said to be saved: %v", err)
		}
		on.keep(t, d)
		if e, is := on.Emergency(), d.has(t).Emergency; e == nil || e.By != "new" || is == nil || is.By != "new" {
			t.Errorf("%+v, %+v", e, is)
		}
	})
}

// Processes with one storage keep what the others have ordered.
func TestBook_Processes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a, b Book
		d := new(disk)
		a.keep(t, d)
		set(t, &a, "u", Order{Given: by("a", time.Minute), Admin: health.Drain, Weight: 1})
		b.keep(t, d)
		emergency(t, &a, by("a", 0))
		set(t, &b, "v", Order{Given: by("b", 0), Admin: health.Maint, Weight: 1})
		time.Sleep(time.Second)
		set(t, &a, "u", Order{Given: by("a", time.Hour), Admin: health.Drain, Weight: 0.5})
		time.Sleep(2 * time.Minute) // the time of the order that b knows is over
		synctest.Wait()
		if _, ok := b.Upstream("u"); ok {
			t.Error("it does not end")
		}
		if is := d.has(t); is.Emergency == nil || len(is.Upstreams) != 2 || is.Upstreams["u"].Weight != 0.5 {
			t.Errorf("%s", d.read())
		}
	})
}

// What storage has is not believed blindly, what is wrong with it is said, and it is not
// written over.
func TestBook_BadStorage(t *testing.T) {
	for value, want := range map[string]string{
		"{":                                     "unexpected end of JSON input",
		`{"upstreams":{"a":{"state":"gone"}}}`:  "upstream a: state 'gone' is unknown",
		`{"upstreams":{"a":{"state":"drain"}}}`: "upstream a: weight 0 is not above 0 and at most 1",
		`{"upstreams":{"a":{"state":"drain","weight":7}}}`: "upstream a: weight 7 is not above 0 and at most 1",
	} {
		var b Book
		d := &disk{name: "the orders", value: []byte(value)}
		_, err := b.Keep(t.Context(), &memory{disk: d})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "'the orders': ") {
			t.Errorf("%s: %v", value, err)
		}
		if err := wait(b.SetEmergency(&Emergency{by("x", 0)}, "x")); err == nil || string(d.read()) != value {
			t.Errorf("%v: it is written over: %s", err, d.read())
		}
		d.value = nil
		b.keep(t, d)
		d.value = []byte(value) // while the process runs
		if err := wait(b.SetEmergency(&Emergency{by("x", 0)}, "x")); err == nil || string(d.read()) != value {
			t.Errorf("%v: it is written over: %s", err, d.read())
		}
		b.keeping.again.Stop()
	}
}

// Changes from all sides leave storage with what holds in the end.
func TestBook_Concurrent(t *testing.T) {
	var b Book
	d := new(disk)
	b.keep(t, d)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 50 {
				detach := b.Attach("a", &obeying{})
				_, saving, _ := b.Change("a", asConfigured, func(o *Order) error {
					o.Given, o.Admin = by("x", time.Duration(n%3)*time.Millisecond), health.Admin(n%3)
					return nil
				})
				b.SetEmergency(&Emergency{by("x", 0)}, "x")
				if n%2 == 0 {
					_ = wait(saving)
				}
				if i == 0 {
					b.keep(t, d)
				}
				b.Look()
				detach()
			}
		})
	}
	all.Wait()
	set(t, &b, "a", Order{Given: by("last", 0), Admin: health.Drain, Weight: 1})
	var got saved
	if err := json.Unmarshal(d.read(), &got); err != nil || got.Upstreams["a"].By != "last" || got.Emergency == nil {
		t.Errorf("%s, %v", d.read(), err)
	}
}

// Of two changes of different things at once, none is lost.
func TestBook_ChangesTogether(t *testing.T) {
	for range 100 {
		var b Book
		var all sync.WaitGroup
		all.Go(func() { _, _, _ = b.Change("a", asConfigured, drain("x")) })
		all.Go(func() {
			_, _, _ = b.Change("a", asConfigured, func(o *Order) error { o.Given, o.Weight = by("y", 0), 0.5; return nil })
		})
		all.Wait()
		if o, _ := b.Upstream("a"); o.Admin != health.Drain || o.Weight != 0.5 {
			t.Fatalf("%+v", o)
		}
	}
}
