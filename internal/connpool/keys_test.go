package connpool

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Scenario 13: above MaxKeys requests are served, over connections that nothing
// is known of afterwards.
func TestMaxKeys(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxKeys = 2; c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		f.maxPerKey = 0 // loose ones are not counted per key
		a, b := get(t, p, f, "a"), get(t, p, f, "b")
		c, c2 := get(t, p, f, "c"), get(t, p, f, "c") // both pinned: no room
		wantStats(t, p, Stats{Open: 4, Leased: 4, Keys: 2})
		c.Release(0)
		if !c.Conn().closed.Load() {
			t.Error("kept though nobody could find it")
		}
		c2.Discard()
		a.Release(0)
		wantStats(t, p, Stats{Open: 2, Idle: 1, Leased: 1, Keys: 2})
		if l := get(t, p, f, "a"); !l.Reused() {
			t.Error("a key with a record is not served from it")
		} else {
			l.Release(0)
		}

		// Only idle is not pinned.
		d := get(t, p, f, "d")
		if !a.Conn().closed.Load() || d.host.loose {
			t.Error("an idle key did not make room")
		}
		b.Release(0)
		d.Release(0)
		wantStats(t, p, Stats{Open: 2, Idle: 2, Keys: 2})
	})
}

// An idle key makes room only if it vanishes: with two idle connections it takes
// two newcomers.
func TestMaxKeysOneTryEach(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxKeys = 1 }), func(t *testing.T, p *testPool, f *farm) {
		a, a2 := get(t, p, f, "a"), get(t, p, f, "a")
		a.Release(0)
		a2.Release(0)
		b := get(t, p, f, "b")
		wantStats(t, p, Stats{Open: 2, Idle: 1, Leased: 1, Keys: 1})
		c := get(t, p, f, "c")
		if !b.host.loose || c.host.loose {
			t.Errorf("loose: %v, %v", b.host.loose, c.host.loose)
		}
		b.Release(0)
		c.Release(0)
	})
}

// What keeps no record waits for MaxConns, gives up, fails and is closed like
// the rest.
func TestLooseRequests(t *testing.T) {
	cfg := with(func(c *Config) { c.MaxKeys = 1; c.MaxConns = 2; c.PendingTimeout = time.Second })
	inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
		a := get(t, p, f, "a")
		b := get(t, p, f, "b")
		g := goGet(p, "c", wants[*conn]{Dial: f.dial("c")}.req())
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Leased: 2, Pending: 1, Keys: 1})
		b.Discard()
		synctest.Wait()
		if !g.isDone() || g.err != nil || !g.lease.host.loose {
			t.Fatal("not served from the line")
		}
		_, err := p.Get(context.Background(), "d", wants[*conn]{Dial: f.dial("d")}.req())
		wantScope(t, err, ScopeTimeout, true)
		gone := goGet(p, "e", wants[*conn]{Dial: f.dial("e")}.req())
		synctest.Wait()
		gone.cancel()
		synctest.Wait()
		g.lease.Release(0)
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})

		calls := make(chan *call, 1)
		dialing := goGet(p, "f", wants[*conn]{Dial: f.slow("f", calls)}.req())
		synctest.Wait()
		waiting := goGet(p, "g", wants[*conn]{Dial: f.dial("g")}.req())
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Leased: 1, Dialing: 1, Pending: 1, Keys: 1})
		p.Close()
		synctest.Wait()
		if dialing.err != ErrClosed || waiting.err != ErrClosed {
			t.Errorf("after Close: %v, %v", dialing.err, waiting.err)
		}
		if (<-calls).ctx.Err() == nil {
			t.Error("dial not cancelled")
		}
		a.Release(0)
	})
}

func heapInUse() uint64 {
	var ms runtime.MemStats
	runtime.GC()
	runtime.GC() // sync.Pools empty in two steps
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

// Scenario 13: 100,000 hosts at once, each with a request under way: there are
// never more than 10,000 states, none is refused, and nothing is left.
func TestManyKeysAtOnce(t *testing.T) {
	const maxKeys, n = 10_000, 100_000
	cfg := with(func(c *Config) { c.MaxKeys = maxKeys; c.MaxIdle = 2 * maxKeys; c.IdleTimeout = time.Hour })
	p := New[int, *nopConn](cfg)
	defer p.Close()
	req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
	round := func() uint64 {
		leases := make([]*Lease[int, *nopConn], n)
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < n; i = next.Add(1) - 1 {
					l, err := p.Get(context.Background(), int(i), req)
					if err != nil {
						t.Errorf("key %d: %v", i, err)
						return
					}
					leases[i] = l
					if i%1000 == 0 && p.Stats().Keys > maxKeys {
						t.Errorf("%d keys", p.Stats().Keys)
					}
				}
			})
		}
		wg.Wait()
		if s := p.Stats(); s.Keys != maxKeys || s.Leased != n {
			t.Errorf("%+v", s)
		}
		for _, l := range leases {
			l.Release(0)
		}
		if s := p.Stats(); s.Keys != maxKeys || s.Open != maxKeys || s.Idle != maxKeys {
			t.Errorf("given back: %+v", s)
		}
		clear(leases)
		return heapInUse()
	}
	first := round()
	if second := round(); second > first+first/4 {
		t.Errorf("heap grew from %d to %d KiB", first>>10, second>>10)
	}
	p.closeIdle()
	if s := p.Stats(); s != (Stats{}) {
		t.Errorf("at the end: %+v", s)
	}
}

// One pool for each of thousands of upstream proxies must cost next to nothing.
func TestEmptyPoolIsSmall(t *testing.T) {
	const n = 10_000
	b := NewBudget(100)
	pools := make([]*Pool[string, *nopConn], n)
	before := heapInUse()
	for i := range pools {
		pools[i] = New[string, *nopConn](Config{Shards: 1, MaxIdle: 10, MaxIdlePerKey: 10, IdleTimeout: time.Minute, Shared: b})
	}
	size := (heapInUse() - before) / n
	if size >= 1024 {
		t.Errorf("an empty pool takes %d bytes", size)
	}
	t.Logf("%d bytes", size)
	runtime.KeepAlive(pools)
}

func TestShards(t *testing.T) {
	for n, want := range map[int]int{-1: 64, 0: 64, 1: 1, 2: 2, 3: 4, 64: 64, 65: 128, 1 << 20: 1 << 16} {
		if got := shardsFor(n); got != want {
			t.Errorf("%d: %d shards, want %d", n, got, want)
		}
	}
}
