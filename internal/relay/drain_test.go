package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Long enough that a test which waits for it has failed.
const never = time.Hour

// eachSocketKind is eachKind for tunnels that can be drained.
func eachSocketKind(t *testing.T, f func(t *testing.T, client, origin link)) {
	t.Helper()
	for _, k := range kinds[:4] {
		t.Run(k.name, func(t *testing.T) { f(t, k.client(t), k.origin(t)) })
	}
}

// A tunnel that was quiet when it is drained ends in order: both sides see the end,
// and the tunnel is closed when they have ended too.
func TestDrain(t *testing.T) {
	eachSocketKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{IdleTimeout: never, HalfCloseTimeout: time.Nanosecond})
		wait := start(t, r)
		mustWrite(t, client.far, "up")
		mustWrite(t, origin.far, "down")
		mustRead(t, origin.far, "up")
		mustRead(t, client.far, "down")
		r.last.Store(-int64(restTime)) // as if that were long ago
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() { r.Drain(ReasonDrain, 50*time.Millisecond, never) })
		}
		calls.Wait()
		mustEnd(t, origin.far)
		mustEnd(t, client.far)
		mustWrite(t, client.far, "too late, and no reason for a reset")
		client.far.Close()
		origin.far.Close()
		if res := wait(); res.Reason != ReasonDrain || res.Err != nil || res.BytesUp != 2 || res.BytesDown != 4 {
			t.Errorf("result %+v; want drain, no error, 2 bytes up, 4 down", res)
		}
		r.Drain(ReasonAdmin, 0, 0) // too late, and harmless
	})
}

// What arrives in the time of settle reaches the other side. As the tunnel was in use,
// nobody knows whether that was all, so both sides see a reset.
func TestDrainInUse(t *testing.T) {
	eachSocketKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{IdleTimeout: never})
		wait := start(t, r)
		r.Drain(ReasonDrain, 200*time.Millisecond, never)
		mustWrite(t, client.far, "up")
		mustWrite(t, origin.far, "down")
		mustRead(t, origin.far, "up")
		mustRead(t, client.far, "down")
		mustBreak(t, origin.far, "")
		mustBreak(t, client.far, "")
		if res := wait(); res.Reason != ReasonDrain || res.Err != nil || res.BytesUp != 2 || res.BytesDown != 4 {
			t.Errorf("result %+v; want drain, no error, 2 bytes up, 4 down", res)
		}
	})
}

// A tunnel in which bytes move both ways all the time is cut somewhere: what reaches
// a side is without a gap, and both see a reset.
func TestDrainBusy(t *testing.T) {
	eachSocketKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{})
		wait := start(t, r)
		var senders, readers sync.WaitGroup
		got, broken := make([]int64, 2), make([][2]error, 2)
		for i, s := range []Stream{client.far, origin.far} {
			senders.Go(func() { broken[i][0] = pattern(s) })
			readers.Go(func() { got[i], broken[i][1] = readPattern(t, s) })
		}
		eventually(t, "bytes both ways", func() bool {
			up, down := r.Counts()
			return up > 1<<20 && down > 1<<20
		})
		r.Drain(ReasonDrain, time.Millisecond, never)
		readers.Wait()
		client.far.Close()
		origin.far.Close()
		senders.Wait()
		for i := range broken {
			// A socket tells a reset to one system call only.
			if err := errors.Join(broken[i][:]...); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("side %d has seen %v; want a reset", i, err)
			}
		}
		res := wait()
		if res.Reason != ReasonDrain || res.Err != nil || res.BytesUp < got[1] || res.BytesDown < got[0] {
			t.Errorf("result %+v; the sides got %d up, %d down", res, got[1], got[0])
		}
	})
}

var patternBlock = sha256.Sum256([]byte("of length 32, which no buffer size is a multiple of plus one"))

// pattern writes the same bytes over and over until that fails.
func pattern(s io.Writer) error {
	block := bytes.Repeat(patternBlock[:], 1024)
	for {
		if _, err := s.Write(block); err != nil {
			return err
		}
	}
}

// readPattern reads what pattern has written until it is cut off.
func readPattern(t *testing.T, s io.Reader) (n int64, err error) {
	buf := make([]byte, 32<<10)
	for {
		k, err := s.Read(buf)
		for i, b := range buf[:k] {
			if b != patternBlock[(n+int64(i))%32] {
				t.Errorf("byte %d is wrong", n+int64(i))
				return n, err
			}
		}
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}

// A peer that does not end its side, or that takes nothing, holds a tunnel no longer
// than it is told.
func TestDrainEndsInTime(t *testing.T) {
	eachSocketKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{})
		wait := start(t, r)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			_ = pattern(origin.far) // and the client never reads
		}()
		awaitStuck(t, r)
		r.Drain(ReasonDrain, 0, 50*time.Millisecond)
		if res := wait(); res.Reason != ReasonDrain || res.Err != nil {
			t.Errorf("result %+v; want drain", res)
		}
		client.far.Close()
		<-stopped
	})
}

// One side had ended before, and waits for all of the other one: it gets what comes in
// time, and then a reset.
func TestDrainHalfClosed(t *testing.T) {
	eachSocketKind(t, func(t *testing.T, client, origin link) {
		r := New(client.near, origin.near, Config{})
		wait := start(t, r)
		client.far.CloseWrite()
		mustEnd(t, origin.far)
		mustWrite(t, origin.far, "the rest")
		r.Drain(ReasonDrain, 50*time.Millisecond, never)
		mustRead(t, client.far, "the rest")
		mustBreak(t, client.far, "")
		if res := wait(); res.Reason != ReasonDrain || res.BytesDown != 8 {
			t.Errorf("result %+v; want drain with 8 bytes down", res)
		}
	})
}

// Where a side knows no deadlines, or nothing has begun, a tunnel is ended at once.
func TestDrainAtOnce(t *testing.T) {
	for _, k := range kinds[4:] {
		t.Run(k.name, func(t *testing.T) {
			client, origin := k.client(t), k.origin(t)
			r := New(client.near, origin.near, Config{})
			wait := start(t, r)
			r.Drain(ReasonDrain, never, never)
			mustEnd(t, client.far)
			mustEnd(t, origin.far)
			if res := wait(); res.Reason != ReasonDrain || res.Err != nil {
				t.Errorf("result %+v; want drain", res)
			}
		})
	}
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{EarlyUp: []byte("never sent")})
	r.Drain(ReasonDrain, never, never)
	if res := r.Run(); res.Reason != ReasonDrain || res.BytesUp != 0 {
		t.Errorf("before the start: %+v; want drain", res)
	}
	mustBreak(t, client.far, "") // what it has sent was not delivered
	mustBreak(t, origin.far, "")
}

// handlerStream is a stream that may not be touched once it is closed, as that of
// an HTTP handler that has returned.
type handlerStream struct {
	conn   *net.TCPConn
	t      *testing.T
	mu     sync.Mutex
	closed bool
}

func (h *handlerStream) SetReadDeadline(at time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		h.t.Error("touched after it was closed")
	}
	return h.conn.SetReadDeadline(at)
}

func (h *handlerStream) Read(p []byte) (int, error)  { return h.conn.Read(p) }
func (h *handlerStream) Write(p []byte) (int, error) { return h.conn.Write(p) }
func (h *handlerStream) CloseWrite() error           { return h.conn.CloseWrite() }

func (h *handlerStream) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	return h.conn.Close()
}

// Draining races with the end of the tunnel: a stream is not touched after its end.
func TestDrainRacesWithTheEnd(t *testing.T) {
	for range 50 {
		client, origin := tcpLink(t), tcpLink(t)
		r := New(&handlerStream{conn: client.near.(*net.TCPConn), t: t}, origin.near, Config{})
		wait := start(t, r)
		var all sync.WaitGroup
		all.Go(func() { client.far.Close() })
		all.Go(func() { origin.far.Close() })
		all.Go(func() { r.Drain(ReasonDrain, 0, never) })
		all.Go(func() { r.End(ReasonPolicy) })
		wait()
		all.Wait()
	}
}
