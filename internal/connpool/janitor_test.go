package connpool

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestIdleTimeoutAtCheckOut(t *testing.T) {
	for _, tt := range []struct {
		name   string
		keep   time.Duration
		age    time.Duration
		reused bool
	}{
		{"before", 0, time.Minute - 1, true},
		{"exactly", 0, time.Minute, false},
		{"shortened, before", 4 * time.Second, 4*time.Second - 1, true},
		{"shortened, exactly", 4 * time.Second, 4 * time.Second, false},
		{"keep does not lengthen", time.Hour, time.Minute, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
				p.wakeAt.Store(1) // no janitor: check-out does not need it
				l := get(t, p, f, "k")
				l.Release(tt.keep)
				time.Sleep(tt.age)
				l = get(t, p, f, "k")
				if l.Reused() != tt.reused {
					t.Errorf("reused: %v", l.Reused())
				}
				if n := f.open(); n != 1 {
					t.Errorf("%d open", n)
				}
				l.Discard()
			})
		})
	}
}

func TestJanitorCloses(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		const slack = time.Second
		a, b, c := get(t, p, f, "a"), get(t, p, f, "b"), get(t, p, f, "c")
		a.Release(0)
		time.Sleep(100 * time.Millisecond)
		b.Release(0)
		c.Release(4 * time.Second)
		gone := func(l *testLease, want bool) {
			t.Helper()
			synctest.Wait()
			if l.Conn().closed.Load() != want {
				t.Errorf("closed: %v", !want)
			}
		}
		time.Sleep(4*time.Second - 1)
		gone(c, false)
		time.Sleep(slack)
		gone(c, true)
		time.Sleep(55*time.Second - 100*time.Millisecond)
		gone(a, false)
		time.Sleep(time.Nanosecond)
		gone(a, true) // on time, since the timer was set for it
		gone(b, false)
		time.Sleep(slack + 100*time.Millisecond)
		gone(b, true)
		wantStats(t, p, Stats{})

		if p.wakeAt.Load() != 0 {
			t.Error("janitor armed though nothing is idle")
		}
		d := get(t, p, f, "d") // it must start again
		d.Release(0)
		time.Sleep(time.Minute + slack)
		gone(d, true)
	})
}

// A connection in steady use is not closed by the timer of an earlier time
// of idleness.
func TestJanitorSparesTheBusy(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		first := l.Conn()
		for range 100 {
			l.Release(0)
			time.Sleep(50 * time.Second)
			if l = get(t, p, f, "k"); l.Conn() != first {
				t.Fatal("closed in spite of use")
			}
		}
		l.Release(0)
	})
}

func TestMaxLifetime(t *testing.T) {
	inBubble(t, with(func(c *Config) {
		c.MaxLifetime = 10 * time.Minute
		c.IdleTimeout = time.Hour
		c.MaxIdlePerKey = 100
	}), func(t *testing.T, p *testPool, f *farm) {
		leases := make([]*testLease, 100)
		for i := range leases {
			leases[i] = get(t, p, f, "k")
		}
		for _, l := range leases[1:] {
			l.Release(0)
		}
		time.Sleep(9*time.Minute - time.Millisecond)
		wantStats(t, p, Stats{Open: 100, Idle: 99, Leased: 1, Keys: 1})
		time.Sleep(time.Minute)
		if n := p.Stats().Idle; n < 20 || n > 80 {
			t.Errorf("%d of 99 alive at the nominal lifetime: where is the jitter?", n)
		}
		time.Sleep(time.Minute + 2*time.Second)
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})
		leases[0].Release(0) // not cut, but not kept either
		wantStats(t, p, Stats{})
	})
}

// A connection whose life is over is not handed to a waiter.
func TestMaxLifetimeAtHandover(t *testing.T) {
	inBubble(t, with(func(c *Config) {
		c.MaxLifetime = time.Minute
		c.MaxConnsPerKey = 1
	}), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		g := goGet(p, "k", wants[*conn]{Dial: f.dial("k")}.req())
		time.Sleep(2 * time.Minute)
		l.Release(0)
		synctest.Wait()
		if g.lease == nil || g.lease.Reused() {
			t.Error("waiter got a connection that is too old, or nothing")
		}
		g.lease.Release(0)
	})
}
