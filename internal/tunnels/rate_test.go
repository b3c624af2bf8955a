package tunnels

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// A user's rate is shared by its tunnels, follows the configuration, and is
// forgotten when its last tunnel has gone and it would be no other than a new one.
func TestUserRatesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(Book)
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
		b := new(Book)
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
