package faultnet

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// In a bubble time is exact: n bytes every d.
func TestDripIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := Client(a, Script{Up: Drip(3, time.Second), Down: Direction{Latency: time.Minute}})
		defer b.Close()
		defer c.Close()
		start := time.Now()
		go func() { _, _ = c.Write([]byte("0123456")) }()
		for _, want := range []struct {
			bytes string
			at    time.Duration
		}{{"012", time.Second}, {"345", 2 * time.Second}, {"6", 3 * time.Second}} {
			got := make([]byte, 10)
			n, err := b.Read(got)
			if err != nil || string(got[:n]) != want.bytes || time.Since(start) != want.at {
				t.Errorf("%q, %v at %v; want %q at %v", got[:n], err, time.Since(start), want.bytes, want.at)
			}
		}
		go func() { _, _ = b.Write([]byte("x")) }()
		before := time.Now()
		if _, err := c.Read(make([]byte, 1)); err != nil || time.Since(before) != time.Minute {
			t.Errorf("read after %v, %v; want a minute", time.Since(before), err)
		}
	})
}

func TestJitterIsBounded(t *testing.T) {
	f := newFlow(Direction{Latency: time.Second, Jitter: time.Second}, 1, true)
	seen := map[time.Duration]bool{}
	for range 100 {
		d := f.delay()
		if d < time.Second || d > 2*time.Second {
			t.Errorf("delay %v", d)
		}
		seen[d] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d different delays of 100", len(seen))
	}
}

// Deadlines and Close reach those whom the script holds up; bytes that a read
// was about to return when its deadline passed come with the next one.
func TestConnDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		c := Client(a, Script{Up: Direction{Latency: time.Hour}, Down: Direction{Latency: time.Hour, Faults: []Fault{BlackHole(1)}}})
		defer b.Close()
		go func() { _, _ = b.Write([]byte("x")) }()
		start := time.Now()
		_ = c.SetReadDeadline(start.Add(time.Minute))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("read: %v after %v", err, time.Since(start))
		}
		_ = c.SetWriteDeadline(start.Add(2 * time.Minute))
		if n, err := c.Write([]byte("y")); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 2*time.Minute {
			t.Errorf("write: %d, %v after %v", n, err, time.Since(start))
		}
		got := make([]byte, 1)
		if n, err := c.Read(got); n != 1 || got[0] != 'x' || err != nil {
			t.Errorf("the byte of the interrupted read: %d %q, %v", n, got, err)
		}
		_ = c.SetReadDeadline(time.Time{})
		result := make(chan error)
		go func() { _, err := c.Read(got); result <- err }()
		synctest.Wait()
		_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // reaches a read under way
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read of a black hole: %v", err)
		}
		_ = c.SetReadDeadline(time.Time{})
		go func() { _, err := c.Read(got); result <- err }()
		synctest.Wait()
		c.Close()
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
	})
}

func TestProxyCountsAndNumbers(t *testing.T) {
	ln := listen(t)
	scripts := make(chan int, 2)
	p, err := Start(ln.Addr().String(), func(conn int) Script {
		scripts <- conn
		return Script{Down: Direction{Faults: []Fault{Garbage(0, 7)}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 2 {
		d, a := pair(t, p.Addr, ln)
		if got := <-scripts; got != i {
			t.Errorf("connection %d has number %d", i, got)
		}
		_, _ = d.Write([]byte("12345"))
		_, _ = io.ReadFull(a, make([]byte, 5))
		_, _ = a.Write([]byte("123"))
		if _, err := io.ReadFull(d, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if _, err := io.ReadAll(a); err != nil {
			t.Fatal(err)
		}
		a.Close()
	}
	p.Close() // waits, so that the counts are final
	for i := range 2 {
		if up, down := p.Counts(i); up != 5 || down != 3 {
			t.Errorf("connection %d: %d up, %d down; want 5 and 3", i, up, down)
		}
	}
	if up, down := p.Counts(2); up+down != 0 || p.Conns() != 2 {
		t.Errorf("%d connections, and %d+%d bytes of one that never was", p.Conns(), up, down)
	}
}

// Close leaves nothing behind, whatever its connections are waiting for, also
// one whose target is not there.
func TestProxyClose(t *testing.T) {
	ln := listen(t)
	for _, d := range []Direction{{}, {Latency: time.Hour}, {Faults: []Fault{BlackHole(0)}}, {Faults: []Fault{HalfClose(0)}}} {
		p, err := Start(ln.Addr().String(), Always(Script{Up: d, Down: d}))
		if err != nil {
			t.Fatal(err)
		}
		dialed, accepted := pair(t, p.Addr, ln)
		_, _ = dialed.Write([]byte("x"))
		_, _ = accepted.Write([]byte("x"))
		p.Close()
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{dialed}); len(d.Faults) == 0 && err == nil {
			t.Error("the client saw an orderly end; want a reset")
		}
	}
	ln.Close()
	p, err := Start(ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp4", p.Addr)
	if err == nil { // or the reset was faster
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !isReset(err) {
		t.Errorf("with no target: %v; want a reset", err)
	}
}
