package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
)

// oneWay sends n bytes, ends the direction, and checks what arrives.
func oneWay(t *testing.T, from, to Stream, n int) {
	t.Helper()
	type sum struct {
		hash []byte
		err  error
	}
	sent := make(chan sum, 1)
	go func() {
		h, err := send(from, 7, n, true)
		sent <- sum{h, err}
	}()
	got, hash, err := receive(to)
	s := <-sent
	if err := errors.Join(err, s.err); err != nil || got != int64(n) || !bytes.Equal(hash, s.hash) {
		t.Errorf("sent %d bytes %x, got %d bytes %x: %v", n, s.hash, got, hash, err)
	}
}

// transfer relays up and down bytes at once and checks everything.
func transfer(t *testing.T, client, origin link, up, down int) *Relay {
	t.Helper()
	r := New(client.near, origin.near, Config{})
	wait := start(t, r)
	var wg sync.WaitGroup
	wg.Go(func() { oneWay(t, client.far, origin.far, up) })
	wg.Go(func() { oneWay(t, origin.far, client.far, down) })
	wg.Wait()
	res := wait()
	if res.BytesUp != int64(up) || res.BytesDown != int64(down) || res.Err != nil {
		t.Errorf("result %+v; want %d up, %d down, no error", res, up, down)
	}
	if res.Reason != ReasonClient && res.Reason != ReasonOrigin {
		t.Errorf("reason %v; want an orderly end", res.Reason)
	}
	return r
}

func TestBytesBothWays(t *testing.T) {
	sizes := [][2]int{
		{0, 0},
		{1, 0},
		{0, 1},
		{1, 1},
		{smallSize, smallSize + 1},
		{bufferSize - 1, bufferSize},
		{bufferSize + 1, 3<<20 + 7},
		{1 + rand.IntN(4<<20), 1 + rand.IntN(4<<20)},
	}
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			for _, s := range sizes {
				transfer(t, k.client(t), k.origin(t), s[0], s[1])
			}
		})
	}
}

func TestRunInCallersGoroutine(t *testing.T) {
	client, origin := tcpLink(t), fakeLink(t)
	results := make(chan Result)
	go func() { results <- New(client.near, origin.near, Config{}).Run() }()
	mustWrite(t, client.far, "question")
	mustRead(t, origin.far, "question")
	mustWrite(t, origin.far, "answer")
	mustRead(t, client.far, "answer")
	client.far.Close()
	origin.far.Close()
	if res := <-results; res.BytesUp != 8 || res.BytesDown != 6 || res.Duration <= 0 {
		t.Errorf("result %+v", res)
	}
}

func TestHalfClose(t *testing.T) {
	for _, who := range []Reason{ReasonClient, ReasonOrigin} {
		t.Run(who.String(), func(t *testing.T) {
			eachKind(t, func(t *testing.T, client, origin link) {
				wait := start(t, New(client.near, origin.near, Config{}))
				first, second := client.far, origin.far
				if who == ReasonOrigin {
					first, second = second, first
				}
				mustWrite(t, first, "last words")
				if err := first.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				mustRead(t, second, "last words")
				mustEnd(t, second)

				// The other direction does not notice.
				for range 3 {
					mustWrite(t, second, "still here")
					mustRead(t, first, "still here")
				}
				if err := second.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				mustEnd(t, first)
				res := wait()
				if res.Reason != who || res.Err != nil {
					t.Errorf("reason %v, error %v; want %v", res.Reason, res.Err, who)
				}
				if got := res.BytesUp + res.BytesDown; got != 10+30 {
					t.Errorf("%d bytes counted; want 40", got)
				}
			})
		})
	}
}

// A stream that is no socket is told both: the end of one direction, then the
// end of all.
func TestOrderlyEndCalls(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	wait := start(t, New(client.near, origin.near, Config{}))
	client.far.CloseWrite()
	mustEnd(t, origin.far)
	origin.far.CloseWrite()
	wait()
	for _, s := range []Stream{client.near, origin.near} {
		if got := s.(*fake).called(); !slices.Equal(got, []string{"CloseWrite", "Close"}) {
			t.Errorf("calls %v; want CloseWrite, Close", got)
		}
	}
}

func TestResetStaysReset(t *testing.T) {
	for _, who := range []Reason{ReasonClientError, ReasonOriginError} {
		t.Run(who.String(), func(t *testing.T) {
			eachKind(t, func(t *testing.T, client, origin link) {
				wait := start(t, New(client.near, origin.near, Config{}))
				first, second := client.far, origin.far
				if who == ReasonOriginError {
					first, second = second, first
				}
				mustWrite(t, first, "half a sent")
				mustRead(t, second, "half a sent")
				abort(t, first)
				if rest, err := io.ReadAll(second); err == nil {
					t.Errorf("read %q and a clean end; want a reset", rest)
				}
				res := wait()
				if res.Reason != who || !errors.Is(res.Err, syscall.ECONNRESET) {
					t.Errorf("reason %v, error %v; want %v, ECONNRESET", res.Reason, res.Err, who)
				}
			})
		})
	}
}

// A reset after the other side's orderly end is a reset as well.
func TestResetAfterHalfClose(t *testing.T) {
	eachKind(t, func(t *testing.T, client, origin link) {
		wait := start(t, New(client.near, origin.near, Config{}))
		client.far.CloseWrite()
		mustEnd(t, origin.far)
		mustWrite(t, origin.far, "partial")
		mustRead(t, client.far, "partial")
		abort(t, origin.far)
		if _, err := io.ReadAll(client.far); err == nil {
			t.Error("the client read a clean end; want a reset")
		}
		if res := wait(); res.Reason != ReasonOriginError || res.Err == nil {
			t.Errorf("result %+v; want origin_error", res)
		}
	})
}

// halfDead is a stream whose peer is gone for writing while what it sent
// before can still be read, as with a TCP socket that received a reset.
type halfDead struct {
	*fake
	err   error
	tried chan struct{}
}

func (h *halfDead) Write([]byte) (int, error) {
	close(h.tried)
	return 0, h.err
}

func TestWriteFailureDeliversWhatThePeerSentBefore(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	dying := &halfDead{origin.near.(*fake), syscall.EPIPE, make(chan struct{})}
	wait := start(t, New(client.near, dying, Config{}))
	mustWrite(t, client.far, "an upload")
	<-dying.tried
	mustWrite(t, origin.far, "413")
	origin.far.CloseWrite() // the error went to the write, the read sees an end
	mustRead(t, client.far, "413")
	if _, err := client.far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %v; want a reset", err)
	}
	res := wait()
	if res.Reason != ReasonOriginError || res.Err != syscall.EPIPE || res.BytesUp != 0 || res.BytesDown != 3 {
		t.Errorf("result %+v", res)
	}
}

func TestWriteFailureOtherwiseEndsAtOnce(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	failure := errors.New("stream error")
	dying := &halfDead{origin.near.(*fake), failure, make(chan struct{})}
	wait := start(t, New(client.near, dying, Config{}))
	mustWrite(t, client.far, "an upload")
	if res := wait(); res.Reason != ReasonOriginError || res.Err != failure {
		t.Errorf("result %+v", res)
	}
	if got := client.near.(*fake).called(); !slices.Equal(got, []string{"Abort"}) {
		t.Errorf("calls %v to the client's stream; want Abort", got)
	}
	if got := origin.near.(*fake).called(); !slices.Equal(got, []string{"Close"}) {
		t.Errorf("calls %v to the origin's stream; want Close", got)
	}
}

func TestClose(t *testing.T) {
	for _, reason := range []Reason{0, ReasonDrain, ReasonPolicy} {
		eachKind(t, func(t *testing.T, client, origin link) {
			r := New(client.near, origin.near, Config{})
			wait := start(t, r)
			mustWrite(t, client.far, "x")
			mustRead(t, origin.far, "x")
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { r.End(reason) })
			}
			wg.Wait()
			mustBreak(t, client.far, "")
			mustBreak(t, origin.far, "")
			want := reason
			if want == 0 {
				want = ReasonClosed
			}
			if res := wait(); res.Reason != want || res.Err != nil || res.BytesUp != 1 {
				t.Errorf("result %+v; want %v and no error", res, want)
			}
			r.End(ReasonAdmin) // too late, and harmless
		})
	}
}

// Close unblocks a direction that is stuck in a write.
func TestCloseWhileWriting(t *testing.T) {
	eachKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{})
		wait := start(t, r)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_, _ = send(origin.far, 1, 1<<30, false) // fails when the tunnel ends
		}()
		awaitStuck(t, r)
		r.End(ReasonDrain)
		if res := wait(); res.Reason != ReasonDrain {
			t.Errorf("result %+v", res)
		}
		client.far.Close()
		<-stopped
	})
}

func TestEarlyBytes(t *testing.T) {
	eachKind(t, func(t *testing.T, client, origin link) {
		wait := start(t, New(client.near, origin.near, Config{
			EarlyUp:   []byte("client hello "),
			EarlyDown: []byte("220 "),
		}))
		mustWrite(t, client.far, "and more")
		mustWrite(t, origin.far, "ready")
		mustRead(t, origin.far, "client hello and more")
		mustRead(t, client.far, "220 ready")
		client.far.CloseWrite()
		origin.far.CloseWrite()
		if res := wait(); res.BytesUp != 21 || res.BytesDown != 9 {
			t.Errorf("counted %d up, %d down; want 21 and 9", res.BytesUp, res.BytesDown)
		}
	})
}

func TestEarlyBytesToABrokenOrigin(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	origin.near.Close()
	res := New(client.near, origin.near, Config{EarlyUp: []byte("x")}).Run()
	if res.Reason != ReasonOriginError || res.Err == nil || res.BytesUp != 0 {
		t.Errorf("result %+v; want origin_error", res)
	}
}

// Counts are exact while the tunnel runs, not only at its end.
func TestCountsAnyTime(t *testing.T) {
	eachKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{})
		start(t, r)
		for i := range int64(10) {
			mustWrite(t, client.far, "12345")
			mustRead(t, origin.far, "12345")
			mustWrite(t, origin.far, "123")
			mustRead(t, client.far, "123")
			// A byte is counted when the write has returned, a moment after
			// the peer may have it.
			eventually(t, "counts", func() bool {
				up, down := r.Counts()
				return up == 5*(i+1) && down == 3*(i+1)
			})
		}
	})
}

// A parked direction of a stream that is no socket holds the small buffer,
// also after a burst.
func TestSmallBufferWhileParked(t *testing.T) {
	client, origin := fakeLink(t), fakeLink(t)
	r := New(client.near, origin.near, Config{})
	start(t, r)
	parked := func() bool {
		return client.near.(*fake).in.parkedWith() == smallSize && r.up.lent.Load() == 0
	}
	eventually(t, "parked at first", parked)
	go func() { _, _ = send(client.far, 3, 1<<20+100, false) }()
	if _, err := io.CopyN(io.Discard, origin.far, 1<<20+100); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, client.far, "x") // the burst may have ended with a large read
	mustRead(t, origin.far, "x")
	eventually(t, "parked after a burst", parked)
}

func TestManyTunnels(t *testing.T) {
	const tunnels = 200
	var wg sync.WaitGroup
	for i := range tunnels {
		k := kinds[i%len(kinds)]
		client, origin := k.client(t), k.origin(t)
		wg.Go(func() { transfer(t, client, origin, rand.IntN(300_000), rand.IntN(300_000)) })
	}
	wg.Wait()
}
