//go:build !race

package connpool

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// A request that waits for a connection in use allocates nothing either. (The race
// detector makes sync.Pool drop what it holds at random.)
func TestHandoverAllocatesNothing(t *testing.T) {
	p := New[string, *nopConn](with(func(c *Config) { c.MaxConnsPerKey = 1; c.PendingTimeout = time.Minute }))
	defer p.Close()
	req := wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req()
	take := func() *Lease[string, *nopConn] {
		l, err := p.Get(context.Background(), "k", req)
		if err != nil {
			t.Error(err)
		}
		return l
	}
	mine := take()
	turn, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(end)
		for range turn {
			take().Release(0) // waits for mine
			end <- struct{}{}
		}
	}()
	n := testing.AllocsPerRun(1000, func() {
		turn <- struct{}{}
		for p.Stats().Pending == 0 {
			runtime.Gosched()
		}
		mine.Release(0)
		<-end
		mine = take()
	})
	close(turn)
	<-end
	mine.Release(0)
	// A collection empties sync.Pools, so that now and then one is made anew.
	if n >= 1 {
		t.Errorf("%v allocations for a wait and its handover", n)
	}
}
