package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// LongAgo is a deadline in the past.
var longAgo = time.Unix(1, 0)

// errWouldWait is what a scriptConn returns where a real connection would wait
// for its peer.
var errWouldWait = errors.New("the read would wait for the peer")

// scriptConn is a connection whose peer has sent what the script says. Each Read
// takes at most one step. After the last one come end, again and again.
type scriptConn struct {
	net.Conn // nil: what is not below must not be called
	script   []scriptStep
	end      error
	ends     int // how often a Read has met the end
	reads    int
}

// scriptStep is bytes that come in one piece, or an error that comes once.
type scriptStep struct {
	data string
	err  error
}

func (s *scriptConn) Read(p []byte) (int, error) {
	s.reads++
	if len(s.script) == 0 {
		s.ends++
		return 0, s.end
	}
	step := &s.script[0]
	if step.err != nil {
		s.script = s.script[1:]
		return 0, step.err
	}
	n := copy(p, step.data)
	if step.data = step.data[n:]; step.data == "" {
		s.script = s.script[1:]
	}
	return n, nil
}

func (s *scriptConn) SetReadDeadline(time.Time) error { return nil }

// unread is how many bytes of the script have not been read.
func (s *scriptConn) unread() (n int) {
	for _, step := range s.script {
		n += len(step.data)
	}
	return n
}

// sends is a peer that sends pieces and ends the connection.
func sends(pieces ...string) *scriptConn {
	s := &scriptConn{end: io.EOF}
	for _, p := range pieces {
		if p != "" {
			s.script = append(s.script, scriptStep{data: p})
		}
	}
	return s
}

// sendsAndStays is a peer that sends pieces and then keeps the connection open.
func sendsAndStays(pieces ...string) *scriptConn {
	s := sends(pieces...)
	s.end = errWouldWait
	return s
}

// bytewise splits into pieces of one byte.
func bytewise(s string) []string { return strings.Split(s, "") }

// begun is a connection in an exchange.
func begun(nc net.Conn) *Conn {
	c := NewConn(nc)
	c.Begin()
	return c
}

// lines puts lines together with CRLF, with an empty line at the end: a head.
func lines(l ...string) string { return strings.Join(l, "\r\n") + "\r\n\r\n" }

const okLine = "HTTP/1.1 200 OK"

const testLimit = 64 << 10

// pattern is n bytes of which no two stretches are alike.
func pattern(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:n]
}

// framed reads one head and works out its framing.
func framed(c *Conn, method string) (h Head, resp Response, err error) {
	if err = c.ReadHead(&h, testLimit); err != nil {
		return h, resp, err
	}
	resp, err = c.Frame(&h, method)
	return h, resp, err
}

// readAll reads the body with reads of the given size. Like io.ReadAll it takes
// io.EOF for success, but it insists on the contract of io.Reader.
func readAll(t testing.TB, c *Conn, size int) (string, error) {
	t.Helper()
	var got []byte
	p := make([]byte, size)
	for {
		n, err := c.Body().Read(p)
		if n < 0 || n > len(p) {
			t.Fatalf("Read returned %d for %d bytes of room", n, len(p))
		}
		got = append(got, p[:n]...)
		if err == nil {
			if n == 0 {
				t.Fatal("Read returned neither bytes nor an error")
			}
			continue
		}
		if done := c.BodyDone(); done != (err == io.EOF) {
			t.Fatalf("Read returned %v, but BodyDone is %v", err, done)
		}
		if again, err2 := c.Body().Read(p); again != 0 || err2 != err {
			t.Fatalf("after %v, Read returned %d, %v", err, again, err2)
		}
		if err == io.EOF {
			err = nil
		}
		return string(got), err
	}
}

// readSizes are sizes of reads: below, at and above the size of the buffer, where
// reads go past it.
var readSizes = []int{1, 2, 3, 7, 100, readBufferSize - 1, readBufferSize, 32 << 10}

// protocolError returns the text of a *ProtocolError, or fails the test.
func protocolError(t testing.TB, err error) string {
	t.Helper()
	p, ok := errors.AsType[*ProtocolError](err)
	if !ok {
		t.Fatalf("error is %v (%T), not a *ProtocolError", err, err)
	}
	return p.Error()
}

func TestExchangesOnOneConnection(t *testing.T) {
	nc := sendsAndStays(
		okLine+"\r\nContent-Length: 5\r\n\r\nfirst",
		okLine+"\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		okLine+"\r\nContent-Length: 6\r\nConnection: close\r\n\r\nfourth",
	)
	c := NewConn(nc)
	for i, want := range []struct {
		body     string
		reusable bool
	}{{"first", true}, {"second", true}, {"", true}, {"fourth", false}} {
		c.Begin()
		if _, _, err := framed(c, "GET"); err != nil {
			t.Fatalf("exchange %d: %v", i, err)
		}
		if got, err := readAll(t, c, 100); got != want.body || err != nil {
			t.Errorf("exchange %d: body %q, %v; want %q", i, got, err, want.body)
		}
		if got := c.End(); got != want.reusable {
			t.Errorf("exchange %d: reusable is %v, want %v", i, got, want.reusable)
		}
	}
	if nc.ends != 0 {
		t.Error("read more than the responses")
	}
}

// TestEndWithoutResponse: what was not read to its end cannot be used again, at
// whatever point it was given up.
func TestEndWithoutResponse(t *testing.T) {
	for _, body := range []string{
		"Content-Length: 3\r\n\r\nabc",
		"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		whole := okLine + "\r\n" + body
		for stage, do := range map[string]func(c *Conn, h *Head){
			"before the head": func(*Conn, *Head) {},
			"after the head":  func(c *Conn, h *Head) { _ = c.ReadHead(h, testLimit) },
			"after framing":   func(c *Conn, h *Head) { _ = c.ReadHead(h, testLimit); _, _ = c.Frame(h, "GET") },
			"within the body": func(c *Conn, h *Head) {
				_ = c.ReadHead(h, testLimit)
				_, _ = c.Frame(h, "GET")
				_, _ = c.Body().Read(make([]byte, 2))
			},
		} {
			c := begun(sendsAndStays(whole))
			do(c, new(Head))
			if c.End() {
				t.Errorf("%q given up %s counts as reusable", body, stage)
			}
		}
	}
}

// TestNoBuffersWhileIdle: an idle connection holds no buffer, and what a large
// head needed does not go into the pool.
func TestNoBuffersWhileIdle(t *testing.T) {
	c := NewConn(sendsAndStays(
		lines(okLine, "Content-Length: 0"),
		lines(okLine, "Content-Length: 0", "X-Large: "+strings.Repeat("x", 3*readBufferSize)),
	))
	for range 2 {
		if c.buf != nil || c.pooled != nil {
			t.Fatal("a buffer before Begin")
		}
		c.Begin()
		if len(c.buf) != readBufferSize {
			t.Errorf("buffer of %d bytes, want %d", len(c.buf), readBufferSize)
		}
		if _, _, err := framed(c, "GET"); err != nil {
			t.Fatal(err)
		}
		if lent := c.pooled; !c.End() {
			t.Error("not reusable")
		} else if len(*lent) != readBufferSize {
			t.Errorf("buffer of %d bytes went into the pool", len(*lent))
		}
	}
	if c.buf != nil || c.pooled != nil {
		t.Error("a buffer after End")
	}
}

// TestWriteGoesThrough: writes reach the peer as they are, and Close ends them.
func TestWriteGoesThrough(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	c := NewConn(ours)
	if c.NetConn() != ours {
		t.Error("NetConn is another connection")
	}
	go func() { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }()
	p := make([]byte, 100)
	if n, err := theirs.Read(p); err != nil || string(p[:n]) != "GET / HTTP/1.1\r\n\r\n" {
		t.Errorf("peer got %q, %v", p[:n], err)
	}
	if err := c.SetWriteDeadline(longAgo); err != nil {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("write after its deadline")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after Close: %v", err)
	}
}

// TestBodyTakesItsTime: the deadline of the head does not hold for the body, also
// where another goroutine has armed it.
func TestBodyTakesItsTime(t *testing.T) {
	for _, tc := range []struct{ name, head, body string }{
		{"length", "Content-Length: 3", "abc"},
		{"chunked", "Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"},
	} {
		for _, other := range []bool{false, true} {
			ours, theirs := net.Pipe()
			c := begun(ours)
			go func() { _, _ = theirs.Write([]byte(lines(okLine, tc.head))) }()
			if _, _, err := framed(c, "GET"); err != nil {
				t.Fatal(err)
			}
			if other {
				_ = c.ArmReadDeadline(longAgo)
				c.DeadlineMayBeArmed()
			} else {
				_ = c.SetReadDeadline(longAgo)
			}
			go func() { _, _ = theirs.Write([]byte(tc.body)) }()
			if got, err := readAll(t, c, 100); got != "abc" || err != nil {
				t.Errorf("%s, armed elsewhere: %v: %q, %v", tc.name, other, got, err)
			}
			_, _ = ours.Close(), theirs.Close()
		}
	}
}
