package faultnet

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// ends are the two ends of a connection that a script spoils: up is the one that
// dialed.
type ends struct {
	dialed, accepted interface {
		net.Conn
		CloseWrite() error
	}
	events chan Event
}

// eachWay runs f over a Proxy, and with one end wrapped.
func eachWay(t *testing.T, script Script, f func(t *testing.T, e ends)) {
	t.Helper()
	events := make(chan Event, 16)
	script.Notify = func(e Event) { events <- e }
	t.Run("proxy", func(t *testing.T) {
		ln := listen(t)
		p, err := Start(ln.Addr().String(), func(int) Script { return script })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		dialed, accepted := pair(t, p.Addr, ln)
		f(t, ends{dialed, accepted, events})
	})
	t.Run("client", func(t *testing.T) {
		ln := listen(t)
		dialed, accepted := pair(t, ln.Addr().String(), ln)
		f(t, ends{Client(dialed, script), accepted, events})
	})
	t.Run("listener", func(t *testing.T) {
		ln := Listener(listen(t), func(int) Script { return script })
		dialed, accepted := pair2(t, ln.Addr().String(), ln)
		f(t, ends{dialed, accepted.(*Conn), events})
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func pair(t *testing.T, addr string, ln net.Listener) (dialed, accepted *net.TCPConn) {
	t.Helper()
	d, a := pair2(t, addr, ln)
	return d, a.(*net.TCPConn)
}

func pair2(t *testing.T, addr string, ln net.Listener) (dialed *net.TCPConn, accepted net.Conn) {
	t.Helper()
	d, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); a.Close() })
	for _, c := range []net.Conn{d, a} {
		_ = c.SetDeadline(time.Now().Add(patience))
	}
	return d.(*net.TCPConn), a
}

// eachDirection runs f for a fault in either direction: from sends into it.
func eachDirection(t *testing.T, d Direction, f func(t *testing.T, from, to ends, events chan Event)) {
	t.Helper()
	for _, up := range []bool{true, false} {
		name, script := "down", Script{Seed: 1, Down: d}
		if up {
			name, script = "up", Script{Seed: 1, Up: d}
		}
		t.Run(name, func(t *testing.T) {
			eachWay(t, script, func(t *testing.T, e ends) {
				if up {
					f(t, e, ends{dialed: e.accepted}, e.events)
				} else {
					f(t, ends{dialed: e.accepted}, ends{dialed: e.dialed}, e.events)
				}
			})
		})
	}
}

func awaitEvent(t *testing.T, events chan Event, want Kind) {
	t.Helper()
	select {
	case e := <-events:
		if e.Fault.Kind != want {
			t.Errorf("%v struck; want %v", e.Fault.Kind, want)
		}
	case <-time.After(patience):
		t.Fatalf("%v did not strike", want)
	}
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// put writes in the background and ignores how that ends.
func put(c net.Conn, b []byte) <-chan struct{} {
	done := make(chan struct{})
	go func() { _, _ = c.Write(b); close(done) }()
	return done
}

var text = bytes.Repeat([]byte("0123456789abcdef"), 1000)

func TestReset(t *testing.T) {
	eachDirection(t, Direction{Faults: []Fault{Reset(1000)}}, func(t *testing.T, from, to ends, events chan Event) {
		written := put(from.dialed, text)
		got := make([]byte, 1000)
		if _, err := io.ReadFull(to.dialed, got); err != nil || !bytes.Equal(got, text[:1000]) {
			t.Fatalf("before the reset: %v, or other bytes", err)
		}
		if n, err := to.dialed.Read(make([]byte, 1)); n != 0 || !isReset(err) {
			t.Errorf("the receiver read %d bytes, %v; want a reset", n, err)
		}
		awaitEvent(t, events, KindReset)
		<-written
		if n, err := from.dialed.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("the sender read %d bytes, %v; want a failure", n, err)
		}
	})
}

func TestTruncate(t *testing.T) {
	eachDirection(t, Direction{Faults: []Fault{Truncate(1000)}}, func(t *testing.T, from, to ends, events chan Event) {
		written := put(from.dialed, text)
		got, err := io.ReadAll(to.dialed)
		if err != nil || !bytes.Equal(got, text[:1000]) {
			t.Errorf("got %d bytes, %v; want 1000 and an orderly end", len(got), err)
		}
		awaitEvent(t, events, KindTruncate)
		<-written
		if n, err := from.dialed.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("the sender read %d bytes, %v; want an end", n, err)
		}
	})
}

func TestHalfClose(t *testing.T) {
	eachDirection(t, Direction{Faults: []Fault{HalfClose(1000)}}, func(t *testing.T, from, to ends, events chan Event) {
		written := put(from.dialed, text)
		got, err := io.ReadAll(to.dialed)
		if err != nil || !bytes.Equal(got, text[:1000]) {
			t.Errorf("got %d bytes, %v; want 1000 and an orderly end", len(got), err)
		}
		awaitEvent(t, events, KindHalfClose)
		<-written
		// The opposite direction goes on.
		if _, err := to.dialed.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := to.dialed.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if back, err := io.ReadAll(from.dialed); err != nil || !bytes.Equal(back, text) {
			t.Errorf("the sender got %d bytes back, %v", len(back), err)
		}
	})
}

func TestBlackHole(t *testing.T) {
	eachDirection(t, Direction{Faults: []Fault{BlackHole(1000)}}, func(t *testing.T, from, to ends, events chan Event) {
		<-put(from.dialed, text)
		_ = from.dialed.CloseWrite()
		got := make([]byte, 1000)
		if _, err := io.ReadFull(to.dialed, got); err != nil || !bytes.Equal(got, text[:1000]) {
			t.Fatalf("before the hole: %v, or other bytes", err)
		}
		// Neither bytes nor the end come: only the deadline ends the read.
		_ = to.dialed.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		var ne net.Error
		if n, err := to.dialed.Read(make([]byte, 1)); n != 0 || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("read %d bytes, %v; want a timeout", n, err)
		}
		awaitEvent(t, events, KindBlackHole)
		// The opposite direction goes on.
		if _, err := to.dialed.Write(text); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, len(text))
		if _, err := io.ReadFull(from.dialed, back); err != nil || !bytes.Equal(back, text) {
			t.Errorf("opposite direction: %v, or other bytes", err)
		}
	})
}

func TestGarbage(t *testing.T) {
	d := Direction{Faults: []Fault{Garbage(10, 5), Garbage(0, 3), Garbage(10, 2)}}
	var first []byte
	eachDirection(t, d, func(t *testing.T, from, to ends, events chan Event) {
		<-put(from.dialed, text[:20])
		_ = from.dialed.CloseWrite()
		got, err := io.ReadAll(to.dialed)
		if err != nil || len(got) != 30 {
			t.Fatalf("got %d bytes, %v; want 30", len(got), err)
		}
		clean := append(append([]byte(nil), got[3:13]...), got[20:]...)
		if !bytes.Equal(clean, text[:20]) {
			t.Errorf("%q around the garbage; want %q", clean, text[:20])
		}
		for range 3 {
			awaitEvent(t, events, KindGarbage)
		}
		if first == nil {
			first = got
		}
	})
	again := newFlow(d, 1, true)
	if junk := again.garbage(Garbage(0, 3)); !bytes.Equal(junk, first[:3]) {
		t.Errorf("the same seed made %x of garbage, then %x", first[:3], junk)
	}
	if junk := newFlow(d, 2, true).garbage(Garbage(0, 3)); bytes.Equal(junk, first[:3]) {
		t.Error("another seed made the same garbage")
	}
}

// Whatever is cut and delayed, the bytes are the same, and orderly ends pass.
func TestPiecesLoseNothing(t *testing.T) {
	d := Direction{MaxPiece: 700, Jitter: 100 * time.Microsecond}
	eachWay(t, Script{Seed: 3, Up: d, Down: d}, func(t *testing.T, e ends) {
		for _, way := range [][2]interface {
			net.Conn
			CloseWrite() error
		}{{e.dialed, e.accepted}, {e.accepted, e.dialed}} {
			written := put(way[0], text)
			got := make([]byte, len(text))
			if _, err := io.ReadFull(way[1], got); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%v, or other bytes", err)
			}
			<-written
		}
		_ = e.dialed.CloseWrite()
		if n, err := e.accepted.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d bytes, %v; want the end", n, err)
		}
		_, _ = e.accepted.Write([]byte("x"))
		_ = e.accepted.CloseWrite()
		if got, err := io.ReadAll(e.dialed); string(got) != "x" || err != nil {
			t.Errorf("after our end came %q, %v", got, err)
		}
	})
}

// A reset from one end stays one at the other.
func TestResetPasses(t *testing.T) {
	eachWay(t, Script{}, func(t *testing.T, e ends) {
		tcp, ok := e.dialed.(*net.TCPConn)
		if !ok {
			tcp = e.dialed.(*Conn).Conn.(*net.TCPConn)
		}
		if _, err := e.accepted.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(tcp, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		abort(tcp)
		if n, err := e.accepted.Read(make([]byte, 1)); n != 0 || !isReset(err) {
			t.Errorf("read %d bytes, %v; want a reset", n, err)
		}
	})
}

// Where pieces end depends on the seed and not on how the bytes come.
func TestCutsAreDeterministic(t *testing.T) {
	cuts := func(seed uint64, arrivals *rand.Rand) (at []int64) {
		f := newFlow(Direction{MaxPiece: 100}, seed, true)
		for f.passed < 5000 {
			n := f.room()
			if n < 1 || n > 100 {
				t.Fatalf("a piece of %d bytes", n)
			}
			if f.cut-f.passed == int64(n) {
				at = append(at, f.cut)
			}
			f.advance(1 + arrivals.IntN(n))
		}
		return at
	}
	uniq := func(in []int64) (out []int64) {
		for i, v := range in {
			if i == 0 || v != in[i-1] {
				out = append(out, v)
			}
		}
		return out
	}
	a := uniq(cuts(1, rand.New(rand.NewPCG(1, 1))))
	b := uniq(cuts(1, rand.New(rand.NewPCG(2, 2))))
	c := uniq(cuts(2, rand.New(rand.NewPCG(1, 1))))
	n := min(len(a), len(b), len(c))
	same := func(x, y []int64) bool {
		for i := range n {
			if x[i] != y[i] {
				return false
			}
		}
		return true
	}
	if !same(a, b) {
		t.Error("the same seed cut elsewhere when the bytes came in other parts")
	}
	if same(a, c) {
		t.Error("two seeds cut at the same places")
	}
}
