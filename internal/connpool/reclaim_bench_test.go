package connpool

import (
	"context"
	"strconv"
	"testing"
)

// BenchmarkReclaim closes a batch of idle connections where there are so many origins, and
// makes as many idle again: the time must not depend on how many there are.
func BenchmarkReclaim(b *testing.B) {
	const batch = 16
	for _, keys := range []int{100, 1_000, 10_000} {
		b.Run("origins="+strconv.Itoa(keys), func(b *testing.B) {
			budget := NewBudget(0)
			cfg := benchConfig
			cfg.MaxIdle, cfg.Shared = keys, budget
			p := New[int, *nopConn](cfg)
			defer p.Close()
			req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
			next := 0
			fill := func() {
				for budget.Idle() < keys {
					l, err := p.Get(context.Background(), next, req)
					if err != nil {
						b.Fatal(err)
					}
					next++
					l.Release(0)
				}
			}
			fill()
			b.ReportAllocs()
			for b.Loop() {
				if n := budget.Reclaim(batch); n != batch {
					b.Fatalf("reclaimed %d", n)
				}
				fill()
			}
		})
	}
}
