package h1

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// Alive looks at the idle connection. It is false when the peer has closed it or
// has sent something that nobody asked for: either way no request may use it.
// It does not wait, except for recordWait on TLS over something else than NoteEOF.
func (c *Conn) Alive() bool {
	if c.tls == nil {
		return c.socket == nil || c.socket.quiet()
	}
	if e, ok := c.tls.NetConn().(*eofConn); ok && e.socket != nil {
		n, err := e.readAtHand(c.tls)
		return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
	}
	if !tlsQuiet(c.tls, longAgo) {
		return false
	}
	if c.socket == nil {
		return true
	}
	quiet := c.socket.quiet()
	for tries := 0; !quiet && tries < 4; tries++ {
		// Records need not carry data: servers send session tickets when
		// they please. TLS itself has to tell. On a busy machine the time
		// may be over before the read began, hence more than one try.
		if !tlsQuiet(c.tls, time.Now().Add(recordWait)) {
			return false
		}
		quiet = c.socket.quiet()
	}
	return quiet
}

// errUnsolicited is a response that was there before its request.
var errUnsolicited = &ProtocolError{Reason: "bytes before the request was sent"}

// Silent looks at a new connection within its first exchange, before anything is
// written. It returns a *ProtocolError where the peer has sent something already,
// which would be taken for the answer, and the error of reading where the
// connection has ended. It does not wait. Connections that cannot be looked at
// count as silent.
func (c *Conn) Silent() error {
	if c.tls != nil {
		e, ok := c.tls.NetConn().(*eofConn)
		if !ok || e.socket == nil {
			return nil
		}
		return spoken(e.readAtHand(c.tls))
	}
	if c.socket == nil || c.socket.quiet() {
		return nil
	}
	err := c.fill()
	return spoken(c.w-c.r, err)
}

// spoken is what the result of reading at a new connection means.
func spoken(n int, err error) error {
	switch {
	case n > 0:
		return errUnsolicited
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case err == io.EOF:
		return ErrClosedBeforeResponse
	}
	return err
}

// recordWait is for the reading of records that are in the socket already. It is
// waited to its end where they carry no data.
const recordWait = 5 * time.Millisecond

// longAgo is a deadline in the past.
var longAgo = time.Unix(1, 0)

// tlsQuiet reports whether t has no data for us until the deadline. With a
// deadline in the past the read returns what is inside the TLS layer, where a
// look at the socket cannot see it, and never touches the socket.
func tlsQuiet(t *tls.Conn, deadline time.Time) bool {
	if err := t.SetReadDeadline(deadline); err != nil {
		return false
	}
	var b [1]byte
	n, err := t.Read(b[:])
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	return t.SetReadDeadline(time.Time{}) == nil
}

// NoteEOF wraps the connection below a TLS client connection so that a body that
// ends with the connection is complete only where TLS has said so (RFC 9112
// §9.8). crypto/tls takes a bare end of the TCP connection for the same.
func NoteEOF(nc net.Conn) net.Conn {
	if tcp, ok := nc.(*net.TCPConn); ok {
		return &eofConn{TCPConn: tcp}
	}
	return &streamEOF{Conn: nc}
}

// streamEOF is any other connection, such as a tunnel through a proxy, that
// remembers its end.
type streamEOF struct {
	net.Conn
	ended bool
}

func (c *streamEOF) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.ended = c.ended || err == io.EOF
	return n, err
}

// eofConn is a TCP connection that remembers its end, and can be read without
// waiting. Its fields belong to the goroutine that reads.
type eofConn struct {
	*net.TCPConn
	socket *socket // set by NewConn
	ended  bool
	atHand bool // only what is at hand is read
	byte   [1]byte
}

func (c *eofConn) Read(p []byte) (int, error) {
	if c.atHand {
		if c.socket.quiet() {
			return 0, os.ErrDeadlineExceeded
		}
		// The deadline of an exchange before may have passed, and would hide
		// what has come.
		_ = c.TCPConn.SetReadDeadline(time.Time{})
	}
	n, err := c.TCPConn.Read(p)
	c.ended = c.ended || err == io.EOF
	return n, err
}

// readAtHand reads a byte from t, the TLS connection over c, if one has come. It
// takes in the records that are there, which need not carry data: servers send
// session tickets when they please.
func (c *eofConn) readAtHand(t *tls.Conn) (int, error) {
	c.atHand = true
	n, err := t.Read(c.byte[:])
	c.atHand = false
	return n, err
}

// cutOff reports whether the TLS connection has ended without a closure alert,
// as far as that can be known.
func (c *Conn) cutOff() bool {
	if c.tls == nil {
		return false
	}
	switch e := c.tls.NetConn().(type) {
	case *eofConn:
		return e.ended
	case *streamEOF:
		return e.ended
	}
	return false
}
