package relay

import (
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// meter counts what arrives and holds it to a rate.
type meter struct {
	rate  int64
	burst int64
	start time.Time
	got   int64
}

func newMeter(bytesPerSecond int64) *meter {
	return &meter{rate: bytesPerSecond, burst: int64(NewRate(bytesPerSecond).Burst()), start: time.Now()}
}

// Write never fails to count; it tells whether too much has come by now.
func (m *meter) take(t testing.TB, n int) {
	m.got += int64(n)
	most := float64(m.burst) + float64(m.rate)*time.Since(m.start).Seconds()
	if float64(m.got) > math.Ceil(most) {
		t.Errorf("%d bytes after %v; at most %.0f may be", m.got, time.Since(m.start), most)
	}
}

// read reads n bytes, or to the end, and holds them to the rate.
func (m *meter) read(t testing.TB, r io.Reader, n int64) (err error) {
	buf := make([]byte, 64<<10)
	for m.got < n && err == nil {
		var k int
		k, err = r.Read(buf)
		m.take(t, k)
	}
	return err
}

func about(d, want time.Duration) bool { return (d - want).Abs() < time.Millisecond }

// In a bubble the bucket is exact: the burst at once, then the rate.
func TestRateIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bps, size = 1000, 10_000
		client, origin := fakeLink(t), fakeLink(t)
		r := New(client.near, origin.near, Config{UpRates: []*Rate{NewRate(bps)}, IdleTimeout: 10 * time.Second})
		wait := start(t, r)
		m := newMeter(bps)
		go func() { _, _ = send(client.far, 1, size, true) }()
		// The other direction has no limit, and does not wait.
		mustWrite(t, origin.far, "free")
		mustRead(t, client.far, "free")
		if err := m.read(t, origin.far, math.MaxInt64); err != io.EOF || m.got != size {
			t.Errorf("%d bytes, %v; want %d and the end", m.got, err, size)
		}
		if d, want := time.Since(m.start), (size-minBurst)*time.Second/bps; !about(d, want) {
			t.Errorf("took %v; want %v", d, want)
		}
		origin.far.CloseWrite()
		if res := wait(); res.BytesUp != size || res.BytesDown != 4 || res.Reason != ReasonClient {
			t.Errorf("result %+v", res)
		}
	})
}

// Early bytes keep to the rate as well, and after a pause there is a burst again.
func TestRateOfEarlyBytesAndAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bps = 1000
		client, origin := fakeLink(t), fakeLink(t)
		r := New(client.near, origin.near, Config{EarlyDown: make([]byte, minBurst+2000), DownRates: []*Rate{NewRate(bps)}})
		start(t, r)
		m := newMeter(bps)
		if err := m.read(t, client.far, minBurst+2000); err != nil || !about(time.Since(m.start), 2*time.Second) {
			t.Errorf("early bytes took %v, %v; want 2s", time.Since(m.start), err)
		}
		time.Sleep(time.Hour)
		m = newMeter(bps)
		go func() { _, _ = send(origin.far, 1, minBurst, false) }()
		if err := m.read(t, client.far, minBurst); err != nil || time.Since(m.start) != 0 {
			t.Errorf("the burst took %v, %v", time.Since(m.start), err)
		}
	})
}

// Two tunnels share a rate, each has one of its own besides, and what one did not
// deliver because it ended is the other's.
func TestSharedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const bps = 10_000
		shared := NewRate(bps)
		m := newMeter(bps)
		deliver := func(size int) (*Relay, link, func() Result) {
			client, origin := fakeLink(t), fakeLink(t)
			r := New(client.near, origin.near, Config{DownRates: []*Rate{NewRate(9000), shared}})
			wait := start(t, r)
			go func() { _, _ = send(origin.far, 1, size, true) }()
			return r, client, wait
		}
		_, a, waitA := deliver(50_000)
		b, bLink, waitB := deliver(1 << 20)
		var gotB int64
		done := make(chan struct{})
		at := *m // of both, in the order of the bubble
		turn := make(chan struct{}, 1)
		turn <- struct{}{}
		count := func(s io.Reader, n *int64) {
			buf := make([]byte, 64<<10)
			for {
				k, err := s.Read(buf)
				<-turn
				at.take(t, k)
				turn <- struct{}{}
				*n += int64(k)
				if err != nil {
					return
				}
			}
		}
		go func() { count(bLink.far, &gotB); close(done) }()
		time.AfterFunc(4*time.Second, func() { b.End(ReasonAdmin) })
		var gotA int64
		count(a.far, &gotA)
		<-done
		a.far.CloseWrite()
		resA, resB := waitA(), waitB()
		if gotA != 50_000 || resA.BytesDown != gotA || resB.BytesDown != gotB || resB.Reason != ReasonAdmin {
			t.Errorf("got %d and %d; results %+v, %+v", gotA, gotB, resA, resB)
		}
		if gotB < 15_000 || gotB > 25_000 {
			t.Errorf("one of two had %d bytes of 4 seconds", gotB)
		}
		// All that the bucket gave was delivered by one or the other, but for
		// the last tunnel's own limit.
		if d := time.Since(m.start); d > 8*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// Whatever ends a tunnel ends its waiting too, and what was not delivered is not
// counted.
func TestWaitingForATurnIsInterrupted(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		end  func(r *Relay, origin Stream)
		want Reason
		at   time.Duration
	}{
		{Config{IdleTimeout: time.Minute}, nil, ReasonIdle, time.Minute},
		{Config{Lifetime: time.Minute}, nil, ReasonLifetime, time.Minute},
		{Config{HalfCloseTimeout: time.Minute}, func(_ *Relay, o Stream) { o.CloseWrite() }, ReasonHalfClose, 61 * time.Second},
		{Config{}, func(r *Relay, _ Stream) { r.End(ReasonDrain) }, ReasonDrain, time.Second},
		{Config{}, func(r *Relay, _ Stream) { r.End(ReasonPolicy) }, ReasonPolicy, time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, origin := fakeLink(t), fakeLink(t)
			slow := NewRate(1)
			slow.bucket.AllowN(time.Now(), minBurst-7)
			tc.cfg.UpRates = []*Rate{slow}
			tc.cfg.EarlyUp = make([]byte, 1000)
			r := New(client.near, origin.near, tc.cfg)
			results := make(chan Result, 1)
			r.Start(func(res Result) { results <- res })
			time.Sleep(time.Second)
			if tc.end != nil {
				tc.end(r, origin.far)
			}
			if res := <-results; res.Reason != tc.want || res.Duration != tc.at || res.BytesUp != 0 || res.Err != nil {
				t.Errorf("result %+v; want %v after %v", res, tc.want, tc.at)
			}
			mustBreak(t, origin.far, "") // it did not get what was waiting
			if left := slow.bucket.Tokens(); left < 7 {
				t.Errorf("%.0f bytes are left in the bucket: those not delivered were not put back", left)
			}
		})
	}
}

// A tunnel that waits for its turn, each time for less than the limit, is not
// idle.
func TestWaitingForATurnIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, origin := fakeLink(t), fakeLink(t)
		r := New(client.near, origin.near, Config{UpRates: []*Rate{NewRate(100)}, IdleTimeout: 6 * time.Second})
		wait := start(t, r)
		go func() { _, _ = send(client.far, 1, minBurst+10*minPiece, true) }()
		mustEndAfter(t, origin.far, minBurst+10*minPiece)
		origin.far.CloseWrite()
		if res := wait(); res.Reason != ReasonClient {
			t.Errorf("result %+v", res)
		}
	})
}

func mustEndAfter(t *testing.T, s io.Reader, want int64) {
	t.Helper()
	if n, err := io.Copy(io.Discard, struct{ io.Reader }{s}); n != want || err != nil {
		t.Errorf("%d bytes, %v; want %d", n, err, want)
	}
}

// The limit may be changed while somebody waits or moves bytes.
func TestRateSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, origin := fakeLink(t), fakeLink(t)
		rate := NewRate(1 << 20)
		start(t, New(client.near, origin.near, Config{UpRates: []*Rate{rate}}))
		go func() { _, _ = send(client.far, 1, 4<<20, true) }()
		m := newMeter(1 << 20)
		if err := m.read(t, origin.far, 1<<20); err != nil {
			t.Fatal(err)
		}
		rate.Set(1 << 16)
		m = newMeter(1 << 16)
		m.burst += 1 << 16 // what was on its way
		if err := m.read(t, origin.far, 1<<17); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(m.start); d < time.Second/2 {
			t.Errorf("128 KiB at 64 KiB a second took %v", d)
		}
	})
	for _, bps := range []int64{math.MinInt64, -1, 0, 1, math.MaxInt64} {
		r := NewRate(bps)
		if r.Burst() < minBurst || r.piece.Load() < minPiece || r.piece.Load() > int64(r.Burst()) {
			t.Errorf("rate %d: burst %d, piece %d", bps, r.Burst(), r.piece.Load())
		}
	}
}

// Over real streams of every kind bytes are exact and the bound holds.
func TestRateOverEveryKind(t *testing.T) {
	const bps, size = 20 << 20, 7 << 20
	eachKind(t, func(t *testing.T, client, origin link) {
		shared := NewRate(bps)
		r := New(client.near, origin.near, Config{UpRates: []*Rate{shared}, DownRates: []*Rate{NewRate(1 << 40), NewRate(bps)}})
		wait := start(t, r)
		results := make(chan error, 2)
		for _, way := range [][2]Stream{{client.far, origin.far}, {origin.far, client.far}} {
			m := newMeter(bps)
			go func() { _, _ = send(way[0], 1, size, true) }()
			go func() { results <- m.read(t, way[1], math.MaxInt64) }()
		}
		for range 2 {
			if err := <-results; err != io.EOF {
				t.Error(err)
			}
		}
		if res := wait(); res.BytesUp != size || res.BytesDown != size || res.Err != nil {
			t.Errorf("result %+v", res)
		}
	})
}
