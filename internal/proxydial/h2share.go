package proxydial

import (
	"errors"

	"golang.org/x/net/http2"
)

// This file contains how tunnels share what a proxy lets a connection send.
//
// A proxy gives the window of a connection back when its own side has taken the
// bytes. A tunnel whose destination does not read keeps its part, and where the
// windows of the streams are not far below that of the connection, one such tunnel
// could keep all: no other tunnel would send a byte any more. Three things stand
// against that: a tunnel takes half of the window at most while it has company; no
// tunnel begins where less than half is left; and where tunnels stall together until
// nothing is left, those that hold the most are reset.
//
// It cannot be less than half: most implementations give a window back when half of
// it has been read, and tell of nothing before. Where more than half must have been
// read, the share is as much (h2credit.go).

var errStalled = errors.New("http2: its destination took nothing, and others had to wait")

// shareLeft is how much more of the connection's window the tunnel may take.
func (s *stream) shareLeft() int64 {
	if len(s.c.streams) < 2 {
		return maxWindow
	}
	return s.c.pool.credit.share(max(s.full, s.c.fullWindow)) + s.extra - s.unread
}

// exhausted reports whether so little of the window is left that a further tunnel
// might stand still.
func (c *h2Conn) exhausted() bool {
	return len(c.streams)+c.reserved > 0 && c.sendWindow < max(c.fullWindow-c.pool.credit.share(c.fullWindow), 1)
}

// windowGiven is called with c.mu held when the peer has enlarged the window of the
// connection.
func (c *h2Conn) windowGiven(n int64) error {
	exhausted := c.exhausted()
	if c.sendWindow += n; c.sendWindow > maxWindow {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	c.fullWindow = max(c.fullWindow, c.sendWindow)
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

// noteWaiting is called with c.mu held by a tunnel that has to wait.
func (c *h2Conn) noteWaiting(s *stream) {
	c.noteStarving(s)
	c.noteStanding(s)
}

// noteStarving is called with c.mu held by a tunnel that has to wait.
func (c *h2Conn) noteStarving(s *stream) {
	if !c.starved && s.sendWindow > 0 && c.sendWindow <= 0 {
		c.starved = true
		c.starving.Reset(c.cfg.StarveTimeout)
	}
}

// endStarving resets the tunnel that holds the most of the connection's window, if
// another one with less waits to send. It is called when the peer has given nothing
// back for StarveTimeout.
func (c *h2Conn) endStarving() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.starved || c.err != nil {
		return
	}
	c.starved = false
	var most *stream
	for _, s := range c.streams {
		if most == nil || s.unread > most.unread {
			most = s
		}
	}
	for _, s := range c.streams {
		if s.writers > 0 && s.sendWindow > 0 && s.unread < most.unread {
			most.resetLocked(http2.ErrCodeCancel, errStalled)
			break
		}
	}
	c.wakeWriters() // they note that they starve, if they still do
}
