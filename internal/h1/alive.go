package h1

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// socketState is what a look at a socket shows.
type socketState uint8

const (
	socketQuiet   socketState = iota // open, nothing to read
	socketWaiting                    // bytes wait to be read
	socketClosed                     // the peer has ended it, or it has failed
)

// Alive looks at the idle connection. It is false when the peer has closed it or
// has sent something that nobody asked for: either way no request may use it.
// It does not wait, except for recordWait where TLS records have come in.
func (c *Conn) Alive() bool {
	if c.tls == nil {
		return c.raw == nil || lookAt(c.raw) == socketQuiet
	}
	if !tlsQuiet(c.tls, longAgo) {
		return false
	}
	if c.raw == nil {
		return true
	}
	state := lookAt(c.raw)
	for tries := 0; state == socketWaiting && tries < 4; tries++ {
		// Records need not carry data: servers send session tickets when
		// they please. TLS itself has to tell. On a busy machine the time
		// may be over before the read began, hence more than one try.
		if !tlsQuiet(c.tls, time.Now().Add(recordWait)) {
			return false
		}
		state = lookAt(c.raw)
	}
	return state == socketQuiet
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
func NoteEOF(nc *net.TCPConn) net.Conn { return &eofConn{TCPConn: nc} }

// eofConn is a TCP connection that remembers its end.
type eofConn struct {
	*net.TCPConn
	ended bool // read and written by the goroutine that reads
}

func (c *eofConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.ended = c.ended || err == io.EOF
	return n, err
}

// cutOff reports whether the TLS connection has ended without a closure alert,
// as far as that can be known.
func (c *Conn) cutOff() bool {
	if c.tls == nil {
		return false
	}
	e, ok := c.tls.NetConn().(*eofConn)
	return ok && e.ended
}
