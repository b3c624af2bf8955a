package connpool

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// This file tests with real goroutines and real time; under -race it looks
// for what the model, which moves one step at a time, cannot see.

// use works with a connection as its only user.
func (c *conn) use(key string) {
	if c.inUse.Swap(true) {
		c.f.t.Errorf("conn %d has two users", c.id)
	}
	if c.key != key {
		c.f.t.Errorf("conn of key %s leased to key %s", c.key, key)
	}
	if c.closed.Load() {
		c.f.t.Errorf("conn %d used after Close", c.id)
	}
	if rand.IntN(4) == 0 {
		runtime.Gosched()
	}
	c.inUse.Store(false)
}

// flaky is a dial that takes a while and sometimes fails or hangs.
func (f *farm) flaky(key string, class int) func(context.Context) (*conn, error) {
	return func(ctx context.Context) (*conn, error) {
		f.count(key, 1)
		n := rand.IntN(20)
		switch {
		case n == 0:
			f.count(key, -1)
			return nil, errFlaky
		case n == 1:
			select {
			case <-ctx.Done():
				f.count(key, -1)
				return nil, ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
		case n < 10:
			time.Sleep(time.Duration(n*20) * time.Microsecond)
		}
		c := f.make(key)
		c.class = class
		return c, nil
	}
}

var errFlaky = errors.New("refused")

// stress runs one worker's share of random requests.
func stress(p *testPool, f *farm, requests, keys int) (served, other int) {
	for range requests {
		key := strconv.Itoa(rand.IntN(keys))
		class := rand.IntN(3)
		req := wants[*conn]{Dial: f.flaky(key, class)}
		if class > 0 {
			req.Accept = func(c *conn) bool { return c.class == class }
		}
		if rand.IntN(10) == 0 {
			req.MaxIdle = -1
		}
		ctx, cancel := context.Background(), context.CancelFunc(func() {})
		if rand.IntN(5) == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(1000))*time.Microsecond)
		}
		l, err := p.Get(ctx, key, req.req())
		cancel()
		if err != nil {
			other++
			continue
		}
		served++
		l.Conn().use(key)
		switch rand.IntN(10) {
		case 0:
			l.Discard()
		case 1:
			l.Conn().dead.Store(true)
			l.Release(0)
		default:
			l.Release(time.Duration(rand.IntN(3)) * time.Millisecond)
		}
	}
	return served, other
}

func TestStress(t *testing.T) {
	requests := 2000
	if testing.Short() {
		requests = 200
	}
	for name, cfg := range map[string]Config{
		"no limits": roomy,
		"per key":   with(func(c *Config) { c.MaxConnsPerKey = 2; c.MaxDialsPerKey = 1 }),
		"global":    with(func(c *Config) { c.MaxConns = 5 }),
		"all": {
			MaxConnsPerKey: 3, MaxConns: 6, MaxIdlePerKey: 2, MaxIdle: 3, MaxLifetime: 5 * time.Millisecond,
			IdleTimeout: 2 * time.Millisecond, MaxPendingPerKey: 6, MaxPending: 12, PendingTimeout: time.Millisecond,
			MaxDialsPerKey: 2, DialTimeout: 3 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, f := New[string, *conn](cfg), newFarm(t, cfg)
			var served, other atomic.Int64
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					s, o := stress(p, f, requests/16, 4)
					served.Add(int64(s))
					other.Add(int64(o))
				})
			}
			// A lost wake-up would make a worker wait for ever: nothing but
			// the requests' own ends sets it free in three of the pools.
			wg.Wait()
			// Dials end, and the janitor may be closing: those count as leased.
			waitFor(t, "dials and closes to end", func() bool {
				s := p.Stats()
				return s.Dialing == 0 && s.Leased == 0 && s.Pending == 0 && s.Open == s.Idle
			})
			p.Close()
			if s := p.Stats(); s != (Stats{}) || f.open() != 0 {
				t.Errorf("after Close: %+v, %d open", s, f.open())
			}
			t.Logf("%d served, %d not, %d dialed", served.Load(), other.Load(), f.made)
		})
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

// Scenario 9: a connection that comes back just when somebody begins to wait
// is never missed. Two keys and one slot do the same for MaxConns.
func TestReleaseRacingEnqueue(t *testing.T) {
	for name, keys := range map[string][]string{"one key": {"k"}, "two keys": {"a", "b"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := with(func(c *Config) { c.MaxConns = 1; c.MaxConnsPerKey = 1; c.PendingTimeout = 10 * time.Second })
			p, f := New[string, *conn](cfg), newFarm(t, cfg)
			defer p.Close()
			var wg sync.WaitGroup
			for i := range 4 {
				key := keys[i%len(keys)]
				wg.Go(func() {
					for n := range 1000 {
						l, err := p.Get(context.Background(), key, wants[*conn]{Dial: f.dial(key)}.req())
						if err != nil {
							t.Errorf("lost wake-up: %v", err)
							return
						}
						l.Conn().use(key)
						if n%7 == 0 {
							l.Discard()
						} else {
							l.Release(0)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// Close in the middle of everything.
func TestCloseUnderLoad(t *testing.T) {
	for range 20 {
		cfg := with(func(c *Config) { c.MaxConnsPerKey = 2; c.MaxConns = 5 })
		p, f := New[string, *conn](cfg), newFarm(t, cfg)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { stress(p, f, 50, 4) })
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		wg.Go(p.closeIdle)
		wg.Go(p.Close)
		wg.Go(p.Close)
		wg.Wait()
		waitFor(t, "everything to end", func() bool { return p.Stats() == Stats{} && f.open() == 0 })
	}
}

// Scenario 13 as far as it is the pool's: 100,000 keys leave nothing.
func TestManyKeysFlatMemory(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	cfg := with(func(c *Config) { c.MaxIdle = 1024 })
	p := New[int, *nopConn](cfg)
	defer p.Close()
	dial := func(context.Context) (*nopConn, error) { return new(nopConn), nil }
	pass := func(from, to int) uint64 {
		for i := from; i < to; i++ {
			l, err := p.Get(context.Background(), i, wants[*nopConn]{Dial: dial}.req())
			if err != nil {
				t.Fatal(err)
			}
			l.Release(0)
		}
		var ms runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&ms)
		return ms.HeapAlloc
	}
	before := pass(0, n/10)
	after := pass(n/10, n)
	if s := p.Stats(); s.Keys != 1024 || s.Idle != 1024 || s.Open != 1024 {
		t.Errorf("%+v", s)
	}
	if after > before+256<<10 {
		t.Errorf("heap grew from %d to %d KiB", before>>10, after>>10)
	}
	t.Logf("heap %d KiB after %d keys, %d KiB after %d", before>>10, n/10, after>>10, n)
}
