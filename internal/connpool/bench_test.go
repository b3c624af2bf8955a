package connpool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"
)

var benchConfig = Config{
	MaxConnsPerKey: 64, MaxConns: 100_000,
	MaxIdlePerKey: 32, MaxIdle: 100_000, IdleTimeout: 55 * time.Second, MaxLifetime: 10 * time.Minute,
	MaxPendingPerKey: 128, MaxPending: 4096, PendingTimeout: 5 * time.Second, MaxDialsPerKey: 8,
	MaxKeys: 100_000, Shared: NewBudget(100_000),
}

// BenchmarkGetPut is the reuse path: an idle connection taken and given back.
func BenchmarkGetPut(b *testing.B) {
	for _, goroutines := range []int{1, 2, 8} {
		for _, keys := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("goroutines=%d/hosts=%d", goroutines, keys), func(b *testing.B) {
				p := New[string, *nopConn](benchConfig)
				defer p.Close()
				req := wants[*nopConn]{
					Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil },
				}.req()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				names := make([]string, keys)
				for i := range names {
					names[i] = "origin-" + strconv.Itoa(i) + ".example:80"
					warm(b, p, names[i], min(goroutines, 8), req)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				for g := range goroutines {
					n := b.N / goroutines
					if g == 0 {
						n += b.N % goroutines
					}
					wg.Go(func() { cycle(b, ctx, p, names, n, req) })
				}
				wg.Wait()
			})
		}
	}
}

// warm puts n idle connections into the pool.
func warm(b *testing.B, p *Pool[string, *nopConn], key string, n int, req Request[*nopConn]) {
	for range n {
		l, err := p.Get(context.Background(), key, req)
		if err != nil {
			b.Fatal(err)
		}
		defer l.Release(0)
	}
}

func cycle(b *testing.B, ctx context.Context, p *Pool[string, *nopConn], names []string, n int, req Request[*nopConn]) {
	r := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for range n {
		l, err := p.Get(ctx, names[r.IntN(len(names))], req)
		if err != nil {
			b.Error(err)
			return
		}
		l.Release(0)
	}
}

// BenchmarkDial is a request that finds nothing idle.
func BenchmarkDial(b *testing.B) {
	p := New[string, *nopConn](benchConfig)
	defer p.Close()
	req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
	b.ReportAllocs()
	for b.Loop() {
		l, err := p.Get(context.Background(), "k", req)
		if err != nil {
			b.Fatal(err)
		}
		l.Discard()
	}
}

// BenchmarkEvict is a new key in a pool full of idle ones.
func BenchmarkEvict(b *testing.B) {
	cfg := benchConfig
	cfg.MaxIdle = 1024
	p := New[int, *nopConn](cfg)
	defer p.Close()
	req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		l, err := p.Get(context.Background(), i, req)
		if err != nil {
			b.Fatal(err)
		}
		l.Release(0)
	}
}

// BenchmarkHandover is two requests that share one connection.
func BenchmarkHandover(b *testing.B) {
	cfg := benchConfig
	cfg.MaxConnsPerKey = 1
	p := New[string, *nopConn](cfg)
	defer p.Close()
	req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
	b.ReportAllocs()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { cycle(b, context.Background(), p, []string{"k"}, b.N/2, req) })
	}
	wg.Wait()
}

// BenchmarkCancel is a request that leaves a queue of that length: the time must
// not depend on it.
func BenchmarkCancel(b *testing.B) {
	for _, waiters := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("waiters=%d", waiters), func(b *testing.B) {
			p := New[string, *nopConn](Config{MaxConnsPerKey: 1, MaxPendingPerKey: waiters, MaxPending: waiters})
			defer p.Close()
			req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
			l, err := p.Get(context.Background(), "k", req)
			if err != nil {
				b.Fatal(err)
			}
			h := l.host
			line := make([]*waiter[string, *nopConn], waiters)
			join := func(i int) {
				w := p.newWaiter(context.Background(), req)
				h.mu.Lock()
				h.pending.pushBack(&w.node, w)
				h.mu.Unlock()
				line[i] = w
			}
			for i := range line {
				join(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				i := n * 7919 % waiters // any order
				p.leave(h, line[i])
				p.forget(line[i])
				join(i)
			}
			b.StopTimer()
			for _, w := range line {
				p.leave(h, w)
			}
			l.Release(0)
		})
	}
}
