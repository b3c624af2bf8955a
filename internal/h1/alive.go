package h1

import (
	"errors"
	"io"
	"os"
)

// Alive looks at the idle connection. It is false when the peer has closed it or
// has sent something that nobody asked for: either way no request may use it. So it
// is where that cannot be known: the connection is of a type that cannot be looked
// at, or a TLS record has come in part.
//
// It does not wait, except on platforms where a socket cannot be asked (see
// socket). A connection that was not alive once is never alive again.
func (c *Conn) Alive() bool {
	if c.dead || c.reader == nil {
		return false
	}
	n, err := c.reader.ReadAtHand(c.byte[:])
	c.dead = n > 0 || !errors.Is(err, os.ErrDeadlineExceeded)
	return !c.dead
}

// CanBeLookedAt reports whether Alive and Silent can know anything.
func (c *Conn) CanBeLookedAt() bool { return c.reader != nil }

// errUnsolicited is a response that was there before its request.
var errUnsolicited = &ProtocolError{Reason: "bytes before the request was sent"}

// Silent looks at a new connection within its first exchange, before anything is
// written. It returns a *ProtocolError where the peer has sent something already,
// which would be taken for the answer, and the error of reading where the
// connection has ended. It does not wait.
//
// Where that cannot be known, it returns nil: the connection was made for this
// exchange, and there is no other one to take. It carries no second exchange, since
// Alive is false.
func (c *Conn) Silent() error {
	if c.reader == nil {
		return nil
	}
	n, err := c.reader.ReadAtHand(c.byte[:])
	switch {
	case n > 0:
		return errUnsolicited
	case errors.Is(err, os.ErrDeadlineExceeded), err == errPartial, err == errCannotLook:
		return nil
	case err == io.EOF:
		return ErrClosedBeforeResponse
	}
	return err
}

// cutOff reports whether the TLS connection has ended without a closure alert,
// as far as that can be known.
func (c *Conn) cutOff() bool { return c.base != nil && c.base.ended }
