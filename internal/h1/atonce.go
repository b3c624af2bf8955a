package h1

import "os"

// This file contains how a connection is written to without waiting for the peer.

// AtOnceWriter is a connection that can be written to without waiting.
type AtOnceWriter interface {
	// WriteAtOnce is Write, but where the connection takes no more it returns
	// os.ErrDeadlineExceeded at once, and how much it has taken.
	WriteAtOnce(p []byte) (int, error)
}

// WriteAtOnce writes as much of p as the connection takes without waiting for the peer.
// Where that is not all, it returns os.ErrDeadlineExceeded; so it does where the connection
// can only be waited for, as one with TLS, and writes nothing.
func (c *Conn) WriteAtOnce(p []byte) (int, error) {
	if c.writer == nil {
		return 0, os.ErrDeadlineExceeded
	}
	return c.writer.WriteAtOnce(p)
}

// WriteAtOnce implements AtOnceWriter.
func (c *earlyConn) WriteAtOnce(p []byte) (int, error) {
	if w, ok := c.reader.(AtOnceWriter); ok {
		return w.WriteAtOnce(p)
	}
	return 0, os.ErrDeadlineExceeded
}

// Interface guards
var (
	_ AtOnceWriter = (*earlyConn)(nil)
)
