package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// This file contains how a connection is asked for what has come, without waiting
// for more: through every layer of it down to what the peer's bytes arrive at.

// AtHandReader is a connection that can be read without waiting.
type AtHandReader interface {
	// ReadAtHand is Read, but where nothing has come it returns
	// os.ErrDeadlineExceeded at once. Deadlines that were set do not matter.
	ReadAtHand(p []byte) (int, error)
}

// errPartial is the result of ReadAtHand where a part of a TLS record has come.
// Whether it carries data cannot be told before it is whole.
var errPartial net.Error = partialRecord{}

type partialRecord struct{}

func (partialRecord) Error() string   { return "a part of a TLS record is at hand" }
func (partialRecord) Timeout() bool   { return true }
func (partialRecord) Temporary() bool { return true } // or crypto/tls would not read on later

// overBase is TLS, in whatever it is wrapped.
type overBase interface {
	io.Reader
	NetConn() net.Conn
}

// atHandReader returns how nc is read without waiting, and nil where that cannot be
// done: a type that is not known, or TLS over something else than NoteEOF.
func atHandReader(nc net.Conn) AtHandReader {
	switch c := nc.(type) {
	case AtHandReader:
		return c
	case overBase:
		if b, ok := c.NetConn().(*base); ok && b.reader != nil {
			return &tlsReader{tls: c, base: b}
		}
	case syscall.Conn:
		if raw, err := c.SyscallConn(); err == nil {
			return newSocket(nc, raw)
		}
	}
	return nil
}

// tlsReader reads TLS without waiting. It takes in the records that are there,
// which need not carry data: servers send session tickets when they please.
type tlsReader struct {
	tls  overBase
	base *base
}

func (r *tlsReader) ReadAtHand(p []byte) (int, error) {
	r.base.atHand = true
	n, err := r.tls.Read(p)
	r.base.atHand = false
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && r.base.inRecord() {
		return 0, errPartial
	}
	return n, err
}

// NoteEOF wraps the connection below a TLS client connection so that a body that
// ends with the connection is complete only where TLS has said so (RFC 9112
// §9.8): crypto/tls takes a bare end of the TCP connection for the same. It also
// lets the TLS connection be looked at while it is idle.
func NoteEOF(nc net.Conn) net.Conn { return &base{Conn: nc, reader: atHandReader(nc)} }

// base is the connection below TLS. Its fields belong to the goroutine that reads.
type base struct {
	net.Conn
	reader AtHandReader // nil where it cannot be read without waiting
	ended  bool         // by the peer, without an error
	atHand bool         // only what is at hand is read

	// Where the bytes that were read end within the record of TLS they belong to.
	header [5]byte
	have   int // bytes of the header
	left   int // bytes of the record behind the header that are to come
}

// NetConn returns the connection that it wraps.
func (b *base) NetConn() net.Conn { return b.Conn }

func (b *base) Read(p []byte) (n int, err error) {
	if b.atHand {
		n, err = b.reader.ReadAtHand(p)
	} else {
		n, err = b.Conn.Read(p)
	}
	b.ended = b.ended || err == io.EOF
	b.follow(p[:n])
	return n, err
}

// follow counts records (RFC 8446 §5.1).
func (b *base) follow(p []byte) {
	for len(p) > 0 {
		if b.left > 0 {
			n := min(b.left, len(p))
			b.left -= n
			p = p[n:]
			continue
		}
		n := copy(b.header[b.have:], p)
		b.have += n
		p = p[n:]
		if b.have == len(b.header) {
			b.left = int(b.header[3])<<8 | int(b.header[4])
			b.have = 0
		}
	}
}

// inRecord reports whether what was read ends in the middle of a record.
func (b *base) inRecord() bool { return b.left > 0 || b.have > 0 }

// WithEarly returns a connection that reads early before what nc reads.
func WithEarly(nc net.Conn, early []byte) net.Conn {
	return &earlyConn{Conn: nc, early: early, reader: atHandReader(nc)}
}

// earlyConn is a connection before which there are bytes that were read already.
type earlyConn struct {
	net.Conn
	early  []byte
	reader AtHandReader // of Conn, or nil
}

// NetConn returns the connection that it wraps.
func (c *earlyConn) NetConn() net.Conn { return c.Conn }

func (c *earlyConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		return c.takeEarly(p), nil
	}
	return c.Conn.Read(p)
}

// ReadAtHand implements AtHandReader.
func (c *earlyConn) ReadAtHand(p []byte) (int, error) {
	switch {
	case len(c.early) > 0:
		return c.takeEarly(p), nil
	case c.reader == nil:
		return 0, errCannotLook
	}
	return c.reader.ReadAtHand(p)
}

func (c *earlyConn) takeEarly(p []byte) int {
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n
}

// errCannotLook is the result of ReadAtHand of what runs on a connection that
// cannot be read without waiting. It is no error of the connection, which can be
// used.
var errCannotLook net.Error = cannotLook{}

type cannotLook struct{ partialRecord }

func (cannotLook) Error() string { return "the connection cannot be read without waiting" }

// clearReadDeadline takes a deadline of an exchange before off, which would hide
// what has come.
func clearReadDeadline(nc net.Conn) { _ = nc.SetReadDeadline(time.Time{}) }

// Interface guards
var (
	_ AtHandReader = (*tlsReader)(nil)
	_ AtHandReader = (*earlyConn)(nil)
	_ AtHandReader = (*socket)(nil)
)
