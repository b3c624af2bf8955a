package proxydial

import (
	"errors"
	"time"

	"golang.org/x/net/http2"
)

// This file contains how tunnels share what a proxy lets a connection send.
//
// A proxy gives the window of a connection back when its own side has taken the
// bytes. A tunnel whose destination does not read keeps its part, and where the
// windows of the streams are not far below that of the connection, one such tunnel
// could keep all: no other tunnel would send a byte any more. Three things stand
// against that: a tunnel may hold half of the window at most while it has company; no
// tunnel begins where less than half is left; and where nothing is left, a tunnel that
// stalls is reset: soon, if it alone may keep the proxy from giving anything back
// (blocking), or, after StarveTimeout, the one that may hold the most.
//
// It cannot be less than half: most implementations give a window back when half of
// it has been read, and tell of nothing before. Where more than half must have been
// read, a tunnel is let beyond its share (h2credit.go).
//
// What a tunnel holds is known from above only. It is what it has sent and the proxy has
// not given back to its stream; and no more than all tunnels together held when the
// proxy last gave something back to the connection, and what it has sent since.

var errStalled = errors.New("http2: its destination took nothing, and others had to wait")

// shareOf is how much of the connection's window one tunnel may hold beside others.
func (c *h2Conn) shareOf() int64 { return (c.fullWindow + 1) / 2 }

// shareLeft is how much more of the connection's window the tunnel may take.
func (s *stream) shareLeft() int64 {
	if len(s.c.streams) < 2 {
		return maxWindow
	}
	return s.c.shareOf() + s.extra - s.held
}

// exhausted reports whether so little of the window is left that a further tunnel
// might stand still.
func (c *h2Conn) exhausted() bool {
	return len(c.streams)+c.reserved > 0 && c.sendWindow < max(c.fullWindow-max(c.shareOf(), c.late), 1)
}

// windowGiven is called with c.mu held when the peer has enlarged the window of the
// connection.
func (c *h2Conn) windowGiven(n int64) error {
	exhausted, before := c.exhausted(), c.fullWindow-c.sendWindow
	if c.sendWindow += n; c.sendWindow > maxWindow {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.fullWindow = max(c.fullWindow, c.sendWindow)
	if n <= before { // otherwise it is enlarged, and not given back
		if c.due == 0 || n < c.due {
			c.due = n
		}
		c.holdAtMost(before-n, before)
	}
	c.ended = false
	if c.starved {
		c.starved = false
		c.starving.Stop()
	}
	c.wakeWriters()
	if exhausted && !c.exhausted() {
		c.pool.wake()
	}
	return nil
}

// holdAtMost takes in that the tunnels hold now as much together, and held before.
// Who may have held more has been seen to move, and may send as much again as was given
// back.
func (c *h2Conn) holdAtMost(now, before int64) {
	for _, s := range c.streams {
		if s.held > now {
			s.held = now
			s.moves()
			if s.unread > c.shareOf() { // which says less
				s.extra = max(before-c.shareOf(), 0)
			}
		}
	}
}

// windowGiven is called with c.mu held when the peer has enlarged the window of the
// stream.
func (s *stream) windowGiven(n int64) {
	if s.sendWindow += n; s.sendWindow > maxWindow {
		s.resetLocked(http2.ErrCodeFlowControl, malformed("http2: window over 2^31-1"))
		return
	}
	used := s.unread
	s.unread = max(used-n, 0)
	s.held = min(s.held, s.unread)
	if n <= used { // otherwise it is enlarged, and not given back
		s.c.learn(s, n, used)
		s.moves()
	}
	s.sendable.Broadcast()
}

// noteWaiting is called with c.mu held by a tunnel that has to wait. It reports that the
// tunnel need not.
func (c *h2Conn) noteWaiting(s *stream) bool {
	if !c.starved && s.sendWindow > 0 && c.sendWindow <= 0 {
		c.starved, c.starvedAt = true, time.Now()
		wait := c.cfg.StarveTimeout
		if c.ended { // and it was not enough
			wait = c.cfg.ShareWait
		}
		c.starving.Reset(wait)
		c.lookSoon()
	}
	return c.noteStanding(s)
}

// endStarving resets the tunnel that may hold the most of the connection's window, if
// another one waits to send. It is called when the peer has given nothing back for
// StarveTimeout.
func (c *h2Conn) endStarving() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.starved || c.err != nil {
		return
	}
	if s := c.mostHolding(c.leastWaiting(nil)); s == nil {
		c.starved = false
		c.wakeWriters() // they note that they starve, if they still do
	} else if !c.endStalled(s, c.starvedAt) {
		c.starving.Reset(c.cfg.ShareWait) // it was asked just now
	}
}

// endStalled resets a tunnel for which others wait, if the peer has given a sign of life
// since then: where it has not, nobody's destination is to blame.
func (c *h2Conn) endStalled(s *stream, since time.Time) bool {
	if !c.heardSince(since) {
		return false
	}
	c.starved, c.ended = false, true
	c.starving.Stop()
	s.resetLocked(http2.ErrCodeCancel, errStalled)
	c.wakeWriters() // they note that they starve, if they still do
	return true
}

// heardSince reports whether the peer has given a sign of life since then. If not, it is
// asked for one.
func (c *h2Conn) heardSince(then time.Time) bool {
	if c.heard.After(then) {
		return true
	}
	if c.asked.IsZero() {
		c.askLocked()
		c.watchAlive()
	}
	return false
}

// leastWaiting returns the tunnel that may hold the least of those that wait for the
// window of the connection, except one.
func (c *h2Conn) leastWaiting(except *stream) (least *stream) {
	for _, s := range c.streams {
		if s == except || s.writers == 0 || s.sendWindow <= 0 || c.sendWindow > 0 {
			continue
		}
		if least == nil || s.held < least.held {
			least = s
		}
	}
	return least
}

// mostHolding returns who is to go so that waiter may send: who may hold the most, of
// those that have not been seen to move for StarveTimeout before the starving began; or
// of all, if there are none.
func (c *h2Conn) mostHolding(waiter *stream) (most *stream) {
	if waiter == nil {
		return nil
	}
	stood := func(s *stream) bool { return c.starvedAt.Sub(s.moved) > c.cfg.StarveTimeout }
	for _, s := range c.streams {
		switch {
		case s == waiter || s.held == 0:
		case most == nil || stood(s) && !stood(most), stood(s) == stood(most) && s.held > most.held:
			most = s
		}
	}
	return most
}
