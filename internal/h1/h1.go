package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
)

// ProtocolError says what in a response breaks HTTP/1.1. The text is safe to
// show: it never repeats bytes that the peer sent without quoting them.
type ProtocolError struct {
	// Reason is a short readable description, for example
	// "both Transfer-Encoding and Content-Length".
	Reason string
	// TooLarge is true where a limit was passed rather than a rule broken.
	TooLarge bool
	// NoHTTP is true where what came does not begin as any response does.
	NoHTTP bool
}

func (e *ProtocolError) Error() string { return "malformed response: " + e.Reason }

func malformed(format string, args ...any) error {
	return &ProtocolError{Reason: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) error {
	return &ProtocolError{Reason: fmt.Sprintf(format, args...), TooLarge: true}
}

// ErrClosedBeforeResponse is returned by ReadHead when the peer ended the
// connection without sending a single byte of a response. On a reused
// connection this is the well-known race of a request with the peer's idle
// timeout, which is why it is told apart from every other failure.
var ErrClosedBeforeResponse = errors.New("connection closed before any byte of a response")

// readBufferSize holds a usual response head and a small body, so that both
// arrive with one read.
const readBufferSize = 4 << 10

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readBufferSize); return &b }}

// Conn is one HTTP/1.1 client connection. It carries one exchange at a time and
// is not safe for concurrent use, with two exceptions: Close may be called at
// any time, and Write may run while another goroutine reads.
type Conn struct {
	nc     net.Conn
	reader AtHandReader // of nc; nil where it cannot be read without waiting
	writer AtOnceWriter // of nc; nil where it cannot be written to without waiting
	base   *base        // below TLS, if NoteEOF has made it
	byte   [1]byte      // for looks
	dead   bool         // a look has found it so

	pooled *[]byte // what goes back to readBuffers
	buf    []byte  // pooled, or larger where a head needed it
	r, w   int     // unread bytes are buf[r:w]

	body     bodyState
	heads    int  // bytes of heads that were read since Begin
	heard    bool // bytes have come since Begin
	doubtful bool // a head can be read in more than one way, or an informational one ends the connection
	reusable bool // framing and Connection allow another exchange
	deadline bool // a read deadline is set

	listener Listener      // of the body; nil if nobody is told
	interval time.Duration // see Listen
	armed    time.Time     // the deadline that a wait for the body has set; zero if another is set
}

// NewConn returns an HTTP/1.1 connection over nc, which it owns from now on.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, reader: atHandReader(nc), reusable: true}
	c.writer, _ = c.reader.(AtOnceWriter)
	if t, ok := nc.(overBase); ok {
		c.base, _ = t.NetConn().(*base)
	}
	return c
}

// NetConn returns the connection below, for its addresses.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Close closes the connection. It may be called while another goroutine reads
// or writes, which then fail.
func (c *Conn) Close() error { return layers.Close(c.nc) }

// Write writes to the peer, bypassing every buffer.
func (c *Conn) Write(p []byte) (int, error) { return c.nc.Write(p) }

// SetWriteDeadline bounds writes, as net.Conn does.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.nc.SetWriteDeadline(t) }

// Begin borrows what an exchange needs. Each Begin is followed by one End.
func (c *Conn) Begin() {
	c.pooled = readBuffers.Get().(*[]byte)
	c.buf = *c.pooled
	c.r, c.w = 0, 0
	c.body, c.heads, c.heard, c.doubtful = bodyState{}, 0, false, false
	c.listener, c.armed = nil, time.Time{}
}

// End gives the buffers back and reports whether the connection may carry
// another exchange: the response was read to its end, nothing came after it,
// and neither version nor Connection field forbids it (RFC 9112 §9.3).
func (c *Conn) End() (reusable bool) {
	surplus := c.w > c.r
	readBuffers.Put(c.pooled)
	c.pooled, c.buf, c.listener = nil, nil, nil
	return c.reusable && !c.doubtful && c.body.done && !surplus
}

// Heard reports whether the peer has sent anything since Begin.
func (c *Conn) Heard() bool { return c.heard }

// fill reads more bytes behind the unread ones, which it may move to the start.
// There must be room for them.
func (c *Conn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	n, err := c.read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		c.heard = true
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// SetReadDeadline arms a read deadline for ReadHead, or takes one away. Reading a
// body takes it away by itself: a body takes the time it takes, or what a Listener
// leaves to it.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.armed = time.Time{}
	if t.IsZero() && !c.deadline {
		return nil
	}
	c.deadline = !t.IsZero()
	return c.nc.SetReadDeadline(t)
}

// ArmReadDeadline sets a read deadline from another goroutine than the one that
// reads, for the head that it waits for. The reader must call DeadlineMayBeArmed
// before it reads the body.
func (c *Conn) ArmReadDeadline(t time.Time) error { return c.nc.SetReadDeadline(t) }

// DeadlineMayBeArmed tells the reading side that ArmReadDeadline may have been
// called, so that the deadline is taken away before the body is read.
func (c *Conn) DeadlineMayBeArmed() { c.deadline = true }
