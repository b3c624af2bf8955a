package connpool

import (
	"context"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// stillOpen returns which of the connections are still open, as a string of
// their numbers.
func stillOpen(conns []*conn) string {
	s := ""
	for i, c := range conns {
		if !c.closed.Load() {
			s += strconv.Itoa(i)
		}
	}
	return s
}

// In all pools together no more are idle than the budget says, and the pool
// that adds one closes one of its own.
func TestBudgetIsSharedByPools(t *testing.T) {
	b := NewBudget(3)
	inBubble(t, with(func(c *Config) { c.Shared = b }), func(t *testing.T, quiet *testPool, f *farm) {
		busy := New[int, *conn](with(func(c *Config) { c.Shared = b }))
		defer busy.Close()
		park := func(key int) *conn {
			l, err := busy.Get(context.Background(), key, wants[*conn]{Dial: f.dial("busy")}.req())
			if err != nil {
				t.Fatal(err)
			}
			l.Release(0)
			time.Sleep(time.Second)
			return l.Conn()
		}
		get(t, quiet, f, "a").Release(0)
		get(t, quiet, f, "b").Release(0)
		conns := []*conn{park(0), park(1), park(2)}
		if s := stillOpen(conns); s != "2" {
			t.Errorf("open: %s", s)
		}
		wantStats(t, quiet, Stats{Open: 2, Idle: 2, Keys: 2})
		if n := b.Idle(); n != 3 {
			t.Errorf("%d idle", n)
		}
		quiet.closeIdle()
		conns = append(conns, park(3), park(4))
		if s := stillOpen(conns); s != "234" {
			t.Errorf("open: %s", s)
		}
	})
	if n := b.Idle(); n != 0 {
		t.Errorf("%d idle at the end", n)
	}
}

// Where others have used up the budget, a connection is closed when it is given
// back, and requests are served all the same.
func TestBudgetUsedUpByOthers(t *testing.T) {
	b := NewBudget(1)
	b.count(1)
	inBubble(t, with(func(c *Config) { c.Shared = b }), func(t *testing.T, p *testPool, f *farm) {
		for range 3 {
			get(t, p, f, "k").Release(0)
			wantStats(t, p, Stats{})
		}
	})
}

// Reclaim closes those first that have been idle longest, in whatever pool and
// under whatever key.
func TestReclaimTakesTheOldest(t *testing.T) {
	b := NewBudget(0)
	cfg := with(func(c *Config) { c.Shared = b })
	inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
		time.Sleep(time.Minute) // the pools count time from different moments
		other := New[string, *conn](cfg)
		defer other.Close()
		var conns []*conn
		var leases []*testLease
		for i, key := range []string{"a", "a", "a", "b", "c", "a", "b"} {
			pool := p
			if i%2 == 1 {
				pool = other
			}
			l := get(t, pool, f, key)
			leases, conns = append(leases, l), append(conns, l.Conn())
		}
		for _, l := range leases {
			l.Release(0)
			time.Sleep(time.Second)
		}
		busy := get(t, p, f, "d")
		for _, want := range []string{"23456", "456", "6"} {
			if n := b.Reclaim(2); n != 2 {
				t.Errorf("reclaimed %d", n)
			}
			if s := stillOpen(conns); s != want {
				t.Errorf("open %s, want %s", s, want)
			}
		}
		if n := b.Reclaim(2); n != 1 || b.Reclaim(2) != 0 || b.Idle() != 0 {
			t.Errorf("reclaimed %d, then %d idle", n, b.Idle())
		}
		if busy.Conn().closed.Load() {
			t.Error("reclaimed a connection in use")
		}
		busy.Release(0)
	})
}

// What Reclaim frees of MaxConns goes to those who wait for it.
func TestReclaimServesTheLine(t *testing.T) {
	b := NewBudget(0)
	inBubble(t, with(func(c *Config) { c.MaxConns = 1; c.Shared = b }), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "a")
		g := goGet(p, "b", wants[*conn]{Dial: f.dial("b")}.req())
		synctest.Wait()
		l.host.mu.Lock()
		l.state.Store(statePooled)
		l.host.park(l, p.now()) // as place does, just before it serves the line
		l.host.mu.Unlock()
		if n := b.Reclaim(1); n != 1 {
			t.Fatalf("reclaimed %d", n)
		}
		synctest.Wait()
		if !g.isDone() || g.err != nil {
			t.Fatal("the line was not served")
		}
		g.lease.Release(0)
	})
}

// A pool is not kept by the budget that knows it, nor is its place.
func TestBudgetForgetsPools(t *testing.T) {
	b := NewBudget(10)
	for range 1000 {
		New[string, *nopConn](Config{Shards: 1, Shared: b})
		if len(b.members)%100 == 0 {
			runtime.GC()
		}
	}
	runtime.GC()
	for range 2 * minPrune {
		New[string, *nopConn](Config{Shards: 1, Shared: b})
	}
	if n := len(b.members); n > 300 {
		t.Errorf("%d members", n)
	}
}

func TestNilBudget(t *testing.T) {
	var b *Budget
	b.count(1)
	b.add(nil)
	if b.exceeded() {
		t.Error("no budget is used up")
	}
}

// Reclaim looks at so many keys only, of one pool and of all.
func TestReclaimLooksAtASample(t *testing.T) {
	for _, tc := range []struct{ pools, keys, want int }{
		{1, 10, 10}, {1, 10_000, reclaimSample}, {3, 1000, 3 * reclaimSample}, {40, 100, reclaimSamples},
	} {
		b := NewBudget(0)
		cfg := benchConfig
		cfg.MaxIdle, cfg.Shared = tc.keys, b
		req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
		for range tc.pools {
			p := New[int, *nopConn](cfg)
			defer p.Close()
			for key := range tc.keys {
				l, err := p.Get(context.Background(), key, req)
				if err != nil {
					t.Fatal(err)
				}
				l.Release(0)
			}
		}
		if n := len(b.candidates()); n != tc.want {
			t.Errorf("%d pools of %d keys: %d compete, want %d", tc.pools, tc.keys, n, tc.want)
		}
		if n := b.Reclaim(16); n != min(16, tc.pools*tc.keys) {
			t.Errorf("%d pools of %d keys: reclaimed %d", tc.pools, tc.keys, n)
		}
	}
}
