package egress

import (
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
)

// held tells how many hold the book of a key.
func held(key string) int {
	return tunnelBooks.Holders()[key]
}

// The book of a handler goes with the last tunnel or the last configuration,
// whichever goes last, and a request that comes later still finds one.
func TestTunnelBookIsReleasedByTheLast(t *testing.T) {
	use, err := acquireBook("edge", zap.NewNop)
	if err != nil {
		t.Fatal(err)
	}
	key, book := use.Key, use.Value
	got, giveBack, err := use.take()
	if err != nil || got != book || held(key) != 1 {
		t.Fatalf("%v; another book: %v; held by %d", err, got != book, held(key))
	}
	use.release() // the configuration goes
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
	b := new(tunnelBook)
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

// A user's rate is shared by its tunnels, follows the configuration, and is
// forgotten when its last tunnel has gone and it would be no other than a new one.
func TestUserRatesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(tunnelBook)
		first := b.shareRate("ann", 1<<20)
		second := b.shareRate("ann", 1<<30)
		if first != second || first.up.Burst() != 1<<28 || first.up == first.down {
			t.Errorf("rates %p and %p, burst %d", first, second, first.up.Burst())
		}
		if b.shareRate("bob", 1<<20) == first {
			t.Error("two users share a rate")
		}
		b.leaveRate(first)
		if b.shareRate("ann", 1<<20) != first {
			t.Error("the rate was forgotten while a tunnel lives")
		}
		for range 2 {
			b.leaveRate(first)
		}
		time.Sleep(time.Second)
		b.mu.Lock()
		users := len(b.rates)
		b.mu.Unlock()
		if users != 1 {
			t.Errorf("%d users are remembered; want bob alone", users)
		}
		if b.shareRate("ann", 1<<20) == first {
			t.Error("a rate that was given up is used again")
		}
	})
}

// A user gains nothing by one short tunnel after the other: what the last one has
// used is not there for the next.
func TestUserRateOutlivesTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bps, burst = 1 << 20, 1 << 18
		b := new(tunnelBook)
		defer func() {
			time.Sleep(time.Hour)
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.rates) > 0 {
				t.Errorf("%d users are remembered", len(b.rates))
			}
		}()
		start, got := time.Now(), 0
		for range 50 {
			r := b.shareRate("ann", bps)
			client, near := net.Pipe()
			origin, far := net.Pipe()
			tunnel := relay.New(testStream{near}, testStream{far}, relay.Config{DownRates: []*relay.Rate{r.down}})
			done := make(chan struct{})
			tunnel.Start(func(relay.Result) { close(done) })
			go func() { _, _ = origin.Write(make([]byte, burst/4)) }()
			n, err := io.ReadFull(client, make([]byte, burst/4))
			if err != nil {
				t.Fatal(err)
			}
			if got += n; float64(got) > burst+bps*time.Since(start).Seconds()+1 {
				t.Errorf("%d bytes in %v", got, time.Since(start))
			}
			client.Close()
			origin.Close()
			<-done
			b.leaveRate(r)
			time.Sleep(time.Millisecond)
		}
	})
}
