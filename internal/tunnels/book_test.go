package tunnels

import (
	"sync"
	"testing"

	"go.uber.org/zap"
)

// held tells how many hold the book of a key.
func held(key string) int {
	return Books.Holders()[key]
}

// The book of a handler goes with the last tunnel or the last configuration,
// whichever goes last, and a request that comes later still finds one.
func TestTunnelBookIsReleasedByTheLast(t *testing.T) {
	use, err := Acquire("edge", zap.NewNop)
	if err != nil {
		t.Fatal(err)
	}
	key, book := use.Key, use.Value
	got, giveBack, err := use.take()
	if err != nil || got != book || held(key) != 1 {
		t.Fatalf("%v; another book: %v; held by %d", err, got != book, held(key))
	}
	use.Release() // the configuration goes
	if held(key) != 1 {
		t.Errorf("held by %d while a tunnel lives", held(key))
	}
	giveBack()
	if held(key) != 0 {
		t.Errorf("held by %d with nobody left", held(key))
	}
	late, giveBack, err := use.take()
	if err != nil || late == book || held(key) != 1 {
		t.Errorf("a late request: %v; the book that is gone: %v; held by %d", err, late == book, held(key))
	}
	giveBack()
	if held(key) != 0 {
		t.Errorf("held by %d behind a late request", held(key))
	}
}

// The number of tunnels is never over the limit, however many come at once.
func TestTunnelBookCountsExactly(t *testing.T) {
	b := new(Book)
	const most = 10
	for range 20 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		taken := 0
		for range 4 * most {
			wg.Go(func() {
				if b.count(most) {
					mu.Lock()
					taken++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if taken != most || b.total.Load() != most {
			t.Fatalf("%d of %d were let in; %d are counted", taken, most, b.total.Load())
		}
		b.total.Store(0)
	}
}
