package relay

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Bytes between sockets keep a tunnel from being idle.
func TestSocketActivity(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{IdleTimeout: time.Hour})
	start(t, r)
	for _, way := range [][2]Stream{{client.far, origin.far}, {origin.far, client.far}} {
		before := r.last.Load()
		mustWrite(t, way[0], "x")
		mustRead(t, way[1], "x")
		if r.last.Load() <= before {
			t.Error("a byte was not noted")
		}
	}
}

// So do bytes that a slow reader takes at last, and only then.
func TestSlowReaderIsActive(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{IdleTimeout: time.Hour})
	r.start = time.Now()
	p := r.up.tcp
	p.buf = new(buffer)

	// Fill the socket as deliver does, but return where it would wait.
	var sent int64
	for done := true; done; sent += bufferSize {
		p.n, p.out = bufferSize, p.buf[:]
		if err := p.to.Write(func(fd uintptr) bool { done = p.onWritable(fd); return true }); err != nil {
			t.Fatal(err)
		}
	}
	if r.last.Load() != 0 {
		t.Error("bytes that did not wait were noted twice")
	}
	delivered := make(chan error, 1)
	go func() { delivered <- p.to.Write(p.writable) }()
	if _, err := io.CopyN(io.Discard, struct{ io.Reader }{origin.far}, sent); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-delivered, p.err); err != nil || r.last.Load() == 0 {
		t.Errorf("error %v, activity %d; want none and some", err, r.last.Load())
	}
}

// A reader that stops is not made up for with memory: the sender stops too.
func TestSlowReader(t *testing.T) {
	const size = 256 << 20
	client, origin := tcpLink(t), tcpLink(t)
	r := New(client.near, origin.near, Config{})
	wait := start(t, r)
	client.far.CloseWrite()
	mustEnd(t, origin.far)

	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	sent := make(chan []byte, 1)
	go func() {
		hash, _ := send(origin.far, 9, size, true)
		sent <- hash
	}()
	last := int64(-1)
	eventually(t, "the sender is stopped", func() bool {
		time.Sleep(50 * time.Millisecond)
		_, down := r.Counts()
		stuck := down == last && down > 0
		last = down
		return stuck
	})
	runtime.GC()
	runtime.ReadMemStats(&during)
	if last > size/2 {
		t.Errorf("%d bytes were taken for a reader that reads nothing", last)
	}
	if grown := int64(during.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if n := r.down.lent.Load(); n > 1 {
		t.Errorf("%d buffers and pipes are held; want 1 at most", n)
	}

	got, hash, err := receive(client.far)
	if err != nil || got != size || !bytes.Equal(hash, <-sent) {
		t.Errorf("received %d bytes, %v, or other bytes", got, err)
	}
	if res := wait(); res.BytesDown != size || res.Reason != ReasonClient {
		t.Errorf("result %+v", res)
	}
}

// The error of a reset goes to one system call. If a write took it, a read
// sees an end; the relay must not take that for one.
func TestHiddenReset(t *testing.T) {
	client, origin := tcpLink(t), tcpLink(t)
	abort(t, client.far)
	eventually(t, "the reset arrives", func() bool {
		_, err := client.near.Write([]byte("x"))
		return err != nil
	})
	if n, err := client.near.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Skipf("this kernel does not hide the reset: %d, %v", n, err)
	}
	res := New(client.near, origin.near, Config{}).Run()
	if res.Reason != ReasonClientError || !errors.Is(res.Err, syscall.ECONNRESET) {
		t.Errorf("result %+v; want client_error, ECONNRESET", res)
	}
	if _, err := origin.far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the origin read %v; want a reset", err)
	}
}

func TestOrderlyEndHidesNoReset(t *testing.T) {
	for _, l := range []link{tcpLink(t), tlsLink(t), fakeLink(t)} {
		l.far.Close()
		mustEnd(t, l.near)
		if eofHidesReset(l.near) {
			t.Errorf("%T: an end is taken for a reset", l.near)
		}
	}
}

// The last bytes of an origin that answers an upload early and goes away
// reach the client before the reset does.
func TestEarlyAnswerThenReset(t *testing.T) {
	for range 20 {
		client, origin := tcpLink(t), tcpLink(t)
		wait := start(t, New(client.near, origin.near, Config{}))
		uploaded := make(chan struct{})
		go func() {
			defer close(uploaded)
			_, _ = send(client.far, 1, 1<<30, true)
		}()
		if _, err := io.CopyN(io.Discard, struct{ io.Reader }{origin.far}, 1<<20); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, origin.far, "413 too large")
		origin.far.Close() // with bytes unread: the kernel sends a reset
		mustRead(t, client.far, "413 too large")
		if res := wait(); res.Reason != ReasonOriginError || res.BytesDown != 13 {
			t.Errorf("result %+v", res)
		}
		<-uploaded
	}
}
