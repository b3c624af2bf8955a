package h1

import (
	"errors"
	"os"
	"time"
)

// Listener is told that the peer is silent.
type Listener interface {
	// Silent tells that a read of the body has brought nothing for that long. An
	// error ends the read, and with it the body.
	Silent(time.Duration) error
}

// Listen has a listener told of silence within the body, not before it has lasted for
// the interval, and then once in each, or a little later. It holds until End.
func (c *Conn) Listen(interval time.Duration, l Listener) {
	c.interval, c.listener = interval, l
}

// awaitBody prepares a wait for more of the body: the deadline of the head no longer
// holds. With a listener there is another, which is not set anew as long as it will do.
func (c *Conn) awaitBody() error {
	if c.listener == nil {
		return c.SetReadDeadline(time.Time{})
	}
	now := time.Now()
	if c.armed.Sub(now) >= c.interval {
		return nil
	}
	return c.arm(now)
}

func (c *Conn) arm(now time.Time) error {
	armed := now.Add(c.interval + c.interval/4)
	err := c.SetReadDeadline(armed)
	c.armed = armed
	return err
}

// read reads from the connection. Silence ends it only if that is what the listener says.
func (c *Conn) read(p []byte) (int, error) {
	if c.armed.IsZero() {
		return c.nc.Read(p)
	}
	since := time.Now()
	for {
		n, err := c.nc.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		now := time.Now()
		if err := c.listener.Silent(now.Sub(since)); err != nil {
			return 0, err
		}
		if err := c.arm(now); err != nil {
			return 0, err
		}
	}
}
