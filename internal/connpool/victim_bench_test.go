package connpool

import (
	"context"
	"fmt"
	"testing"
)

// BenchmarkVictim is a new key in a pool that is full, where only a few of so many keys have
// an idle connection: a look at each of them, up to the 10,000 that a pool knows.
func BenchmarkVictim(b *testing.B) {
	for _, keys := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("hosts=%d", keys), func(b *testing.B) {
			cfg := benchConfig
			cfg.MaxConns, cfg.MaxKeys = keys+1, keys+2
			p := New[int, *nopConn](cfg)
			defer p.Close()
			req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
			busy := make([]*Lease[int, *nopConn], keys)
			for i := range busy {
				var err error
				if busy[i], err = p.Get(context.Background(), i, req); err != nil {
					b.Fatal(err)
				}
			}
			defer func() {
				for _, l := range busy {
					l.Discard()
				}
			}()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l, err := p.Get(context.Background(), keys+i, req) // closes the one of before
				if err != nil {
					b.Fatal(err)
				}
				l.Release(0)
			}
		})
	}
}
