package relay

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// timed runs a test in a bubble with a tunnel between two fakes. In there time
// passes only when all goroutines wait, so durations are exact.
func timed(t *testing.T, cfg Config, f func(t *testing.T, r *Relay, client, origin Stream) Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, o := fakeLink(t), fakeLink(t)
		results := make(chan Result, 1)
		r := New(c.near, o.near, cfg)
		r.Start(func(res Result) { results <- res })
		want := f(t, r, c.far, o.far)
		got := <-results
		if got != want {
			t.Errorf("result %+v; want %+v", got, want)
		}
		// The bubble cannot be left while a goroutine or a pending timer
		// callback of the relay lives.
	})
}

func TestIdleSilence(t *testing.T) {
	timed(t, Config{IdleTimeout: time.Minute}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		mustEnd(t, client)
		mustEnd(t, origin)
		return Result{Reason: ReasonIdle, Duration: time.Minute}
	})
}

func TestIdleOneByteNowAndThen(t *testing.T) {
	timed(t, Config{IdleTimeout: time.Minute}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		const step = time.Minute - time.Nanosecond
		for range 50 {
			time.Sleep(step)
			mustWrite(t, client, "a")
			mustRead(t, origin, "a")
			time.Sleep(step)
			mustWrite(t, origin, "b")
			mustRead(t, client, "b")
		}
		mustEnd(t, client)
		return Result{BytesUp: 50, BytesDown: 50, Reason: ReasonIdle, Duration: 100*step + time.Minute}
	})
}

func TestIdleCountsFromTheLastByte(t *testing.T) {
	timed(t, Config{IdleTimeout: time.Minute}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		time.Sleep(20 * time.Second)
		mustWrite(t, client, "a")
		mustEnd2(t, origin, "a")
		return Result{BytesUp: 1, Reason: ReasonIdle, Duration: 80 * time.Second}
	})
}

// mustEnd2 reads what is expected and then the end.
func mustEnd2(t *testing.T, s Stream, want string) {
	t.Helper()
	mustRead(t, s, want)
	mustEnd(t, s)
}

func TestIdleInAHalfClosedTunnel(t *testing.T) {
	timed(t, Config{IdleTimeout: time.Minute, HalfCloseTimeout: time.Hour}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		time.Sleep(10 * time.Second)
		client.CloseWrite() // an end is no byte
		mustBreak(t, client, "")
		return Result{Reason: ReasonIdle, Duration: time.Minute}
	})
}

func TestHalfCloseTimeout(t *testing.T) {
	for _, who := range []Reason{ReasonClient, ReasonOrigin} {
		timed(t, Config{HalfCloseTimeout: 30 * time.Second}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
			first, second := client, origin
			if who == ReasonOrigin {
				first, second = second, first
			}
			time.Sleep(time.Hour) // both open: no limit
			first.CloseWrite()
			mustEnd(t, second)
			// Bytes of the other direction start it anew.
			for range 9 {
				time.Sleep(29 * time.Second)
				mustWrite(t, second, "x")
				mustRead(t, first, "x")
			}
			// The first has said all and waits for the rest: there is none.
			mustBreak(t, first, "")
			want := Result{Reason: ReasonHalfClose, Duration: time.Hour + 9*29*time.Second + 30*time.Second}
			if who == ReasonClient {
				want.BytesDown = 9
			} else {
				want.BytesUp = 9
			}
			return want
		})
	}
}

// The timer is armed for the far lifetime already when the nearer limit comes.
func TestHalfCloseBeforeLifetime(t *testing.T) {
	timed(t, Config{HalfCloseTimeout: time.Second, Lifetime: time.Hour}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		time.Sleep(time.Minute)
		origin.CloseWrite()
		mustEnd(t, client)
		mustBreak(t, origin, "")
		return Result{Reason: ReasonHalfClose, Duration: time.Minute + time.Second}
	})
}

func TestHalfCloseInTime(t *testing.T) {
	timed(t, Config{HalfCloseTimeout: time.Minute}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		client.CloseWrite()
		mustEnd(t, origin)
		time.Sleep(59 * time.Second)
		mustWrite(t, origin, "x")
		origin.CloseWrite()
		mustEnd2(t, client, "x")
		return Result{BytesDown: 1, Reason: ReasonClient, Duration: 59 * time.Second}
	})
}

func TestLifetime(t *testing.T) {
	timed(t, Config{Lifetime: 10 * time.Second, IdleTimeout: 3 * time.Second}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		for range 9 {
			time.Sleep(time.Second)
			mustWrite(t, client, "x")
			mustRead(t, origin, "x")
		}
		mustBreak(t, origin, "")
		return Result{BytesUp: 9, Reason: ReasonLifetime, Duration: 10 * time.Second}
	})
}

func TestNoLimits(t *testing.T) {
	timed(t, Config{}, func(t *testing.T, r *Relay, client, origin Stream) Result {
		client.CloseWrite()
		time.Sleep(1000 * time.Hour)
		mustWrite(t, origin, "late")
		mustRead(t, client, "late")
		r.End(ReasonAdmin)
		return Result{BytesDown: 4, Reason: ReasonAdmin, Duration: 1000 * time.Hour}
	})
}

// A reader that takes nothing is silence too, and the timer frees the write.
func TestIdleWhileAWriteIsStuck(t *testing.T) {
	timed(t, Config{IdleTimeout: time.Minute}, func(t *testing.T, _ *Relay, client, origin Stream) Result {
		_, _ = send(origin, 1, 1<<20, false) // fails when the tunnel ends
		return Result{BytesDown: 64 << 10, Reason: ReasonIdle, Duration: time.Minute}
	})
}

// A tunnel whose origin is gone delivers the rest, but not for ever; the
// reason is still what broke, and the client still gets a reset.
func TestBrokenTunnelLingersNoLongerThanHalfClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, origin := fakeLink(t), fakeLink(t)
		dying := &halfDead{origin.near.(*fake), syscall.ECONNRESET, make(chan struct{})}
		results := make(chan Result, 1)
		r := New(client.near, dying, Config{HalfCloseTimeout: time.Second, Lifetime: time.Hour})
		r.Start(func(res Result) { results <- res })
		mustWrite(t, client.far, "x")
		res := <-results
		if res.Reason != ReasonOriginError || res.Duration != time.Second {
			t.Errorf("result %+v; want origin_error after 1s", res)
		}
		if _, err := client.far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v; want a reset", err)
		}
	})
}

// slowEnd is a stream that takes its time to find out that its peer is gone.
type slowEnd struct{ *fake }

func (s slowEnd) CloseWrite() error {
	time.Sleep(10 * time.Second)
	return syscall.ENOTCONN
}

// The limit counts from the first end, whatever happens next.
func TestHalfCloseTimeoutIsNotProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, origin := fakeLink(t), fakeLink(t)
		results := make(chan Result, 1)
		r := New(client.near, slowEnd{origin.near.(*fake)}, Config{HalfCloseTimeout: 30 * time.Second})
		r.Start(func(res Result) { results <- res })
		client.far.CloseWrite()
		res := <-results
		if res.Reason != ReasonOriginError || !errors.Is(res.Err, syscall.ENOTCONN) || res.Duration != 30*time.Second {
			t.Errorf("result %+v; want origin_error after 30s", res)
		}
	})
}

// Close in the same instant as every limit: one result, whichever it is.
func TestLimitsRaceWithClose(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			client, origin := fakeLink(t), fakeLink(t)
			r := New(client.near, origin.near, Config{IdleTimeout: time.Second, Lifetime: time.Second})
			results := make(chan Result, 2)
			r.Start(func(res Result) { results <- res })
			time.Sleep(time.Second)
			r.End(ReasonDrain)
			synctest.Wait()
			if len(results) != 1 {
				t.Fatalf("done was called %d times", len(results))
			}
			if res := <-results; res.Duration != time.Second || res.Err != nil {
				t.Errorf("result %+v", res)
			}
		})
	}
}
