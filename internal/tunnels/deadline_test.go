package tunnels

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// drainTest is a book in a bubble of time.
type drainTest struct {
	*testing.T
	book *Book
	from time.Time
}

func inDrainTest(t *testing.T, f func(d *drainTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(&drainTest{t, newTestBook(), time.Now()})
	})
}

// open opens a tunnel, which tells its end and when it was.
func (d *drainTest) open() *testTunnel { return openTestTunnel(d, d.book, "a.example:443", "8.8.8.8") }

// ends waits for the end of a tunnel, which must be by drain and about then.
func (d *drainTest) ends(tun *testTunnel, at time.Duration) {
	d.Helper()
	result := <-tun.done
	tun.done <- result
	if took := time.Since(d.from); result.Reason != relay.ReasonDrain || took < at || took > at+settle+linger {
		d.Errorf("ended by %s after %s; want drain after %s", result.Reason, took, at)
	}
}

// lives fails the test if a tunnel has ended some time from now.
func (d *drainTest) lives(tun *testTunnel, wait time.Duration) {
	d.Helper()
	time.Sleep(wait)
	synctest.Wait()
	if len(tun.done) > 0 {
		d.Errorf("ended before %s", time.Since(d.from))
	}
}

func after(delay time.Duration) *Policy { return &Policy{CloseDelay: delay} }

// While a configuration holds the book, or enters it in time, tunnels live; the last
// one to leave says how long they have from then on.
func TestDrain_Abandoned(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		old, next, last := after(0), after(0), after(5*time.Second)
		live := &d.book.Live
		live.Enter(old)
		tun := d.open()
		live.Enter(next)
		live.Leave(old, false)
		d.lives(tun, time.Hour)
		failed := after(0)
		live.Enter(failed)
		live.Leave(failed, false)
		d.lives(tun, time.Hour)
		live.Enter(last)
		live.Leave(next, false)
		live.Leave(last, false)
		d.lives(tun, 4*time.Second)
		live.Enter(next) // back
		d.lives(tun, time.Hour)
		live.Enter(last)
		live.Leave(next, false)
		live.Leave(last, false)
		d.from = time.Now()
		d.ends(tun, 5*time.Second)
	})
}

// A configuration that has the handler and fails to load gives its tunnels no more time
// than they had: those whose time is over by then end at once.
func TestDrain_FailedLoad(t *testing.T) {
	fails := func(live *List, after time.Duration) {
		p := &Policy{CloseDelay: time.Hour}
		live.Enter(p)
		time.Sleep(after)
		live.Leave(p, true)
	}
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.Live
		gone := after(10 * time.Second)
		live.Enter(gone)
		tun := d.open()
		live.Leave(gone, false)
		for range 3 {
			fails(live, time.Second)
			d.lives(tun, time.Second)
		}
		d.ends(tun, 10*time.Second)

		// The next one is not concerned by what was.
		d.from = time.Now()
		live.Enter(gone)
		tun = d.open()
		fails(live, time.Second)
		live.Leave(gone, false)
		fails(live, 20*time.Second)
		d.ends(tun, 21*time.Second)

		// One that runs, and goes, does give it more.
		d.from = time.Now()
		live.Enter(gone)
		tun = d.open()
		live.Leave(gone, false)
		d.lives(tun, 5*time.Second)
		back := after(10 * time.Second)
		live.Enter(back)
		fails(live, time.Second)
		d.lives(tun, 20*time.Second)
		live.Leave(back, false)
		d.ends(tun, 36*time.Second)
	})
}

// A tunnel whose request has outlived the handler has its own time.
func TestDrain_LateTunnel(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.Live
		gone := after(time.Second)
		live.Enter(gone)
		live.Leave(gone, false)
		d.lives(d.open(), 29*time.Second) // the default of its handler
		first := d.open()
		d.ends(first, 30*time.Second)
		d.from = time.Now()
		d.ends(d.open(), 30*time.Second)
	})
}

// At exit the shorter time counts, nobody can take the tunnels back, and what comes
// when time is over is ended at once. Whoever waits is told when all are gone.
func TestDrain_Exit(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.Live
		p := after(time.Minute)
		live.Enter(p)
		tun := d.open()
		live.Exit(10 * time.Second)
		live.Exit(time.Hour) // later than what is set already
		live.Enter(p)
		live.Leave(p, false)
		live.Leave(p, false)
		gone := make(chan time.Duration, 1)
		go func() {
			live.Await(context.Background())
			gone <- time.Since(d.from)
		}()
		d.lives(tun, 9*time.Second)
		d.ends(tun, 10*time.Second)
		ended := time.Since(d.from)
		// The handler of the last one has to return and net/http to write its end.
		if at := <-gone; at < ended+exitFlush {
			d.Errorf("told that all are gone after %s, and the last has ended after %s", at, ended)
		}
		begin := time.Now()
		live.Await(context.Background()) // nothing to wait for
		if took := time.Since(begin); took > 0 {
			d.Errorf("waited %s for nothing", took)
		}
		late := d.open()
		d.ends(late, 10*time.Second)
	})
}

// A handler that was about to end its tunnels anyway does not give them more time
// at exit.
func TestDrain_ExitAfterRemoval(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live := &d.book.Live
		p := after(2 * time.Second)
		live.Enter(p)
		tun := d.open()
		live.Leave(p, false)
		live.Exit(time.Minute)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		live.Await(ctx) // the grace period
		d.lives(tun, 0)
		d.ends(tun, 2*time.Second)
	})
}

// Waiting does not end before the line of the tunnel is written.
func TestDrain_AwaitsTheLine(t *testing.T) {
	inDrainTest(t, func(d *drainTest) {
		live, tunnel := &d.book.Live, new(live)
		live.Enter(after(0))
		slot := Slot{book: d.book, live: tunnel}
		live.add(tunnel, nil, 0)
		written := false
		go func() {
			time.Sleep(time.Second)
			slot.ReleaseAround(func() {
				time.Sleep(time.Second)
				written = true
			})
		}()
		live.Await(context.Background())
		if !written {
			d.Error("the wait was over before the line was written")
		}
	})
}

// At exit, tunnels that do not end although their time is over are not waited for.
func TestDrain_DoesNotWaitForEver(t *testing.T) {
	for name, exiting := range map[string]bool{"at exit": true, "gone before": false} {
		t.Run(name, func(t *testing.T) {
			inDrainTest(t, func(d *drainTest) {
				live, tunnel := &d.book.Live, new(live)
				p := after(5 * time.Second)
				live.Enter(p)
				live.add(tunnel, nil, 0)
				tunnel.relay = relay.New(nil, nil, relay.Config{}) // never to be run
				if exiting {
					live.Exit(5 * time.Second)
				} else {
					live.Leave(p, false)
					time.Sleep(time.Minute)
				}
				done := make(chan struct{})
				begin := time.Now()
				go func() {
					live.Await(context.Background())
					close(done)
				}()
				select {
				case <-done:
					if took := time.Since(begin); exiting && took < 5*time.Second {
						d.Errorf("not waited for longer than %v", took)
					}
				case <-time.After(time.Minute):
					d.Error("still waiting")
					live.remove(tunnel)
					<-done
				}
			})
		})
	}
}
