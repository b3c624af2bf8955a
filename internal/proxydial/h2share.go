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
// (blocking) and has stood by itself (standsAlone), or, after StarveTimeout, the one that
// may hold the most.
//
// That time begins when the proxy is known to have what was sent: when it has answered a
// PING that was sent behind it. Other frames of the proxy do not prove that: bytes may
// still stand in front of a slow link while it sends a download.
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
	if len(c.streams)+c.reserved == 0 { // what is left is for the first one, if anything is
		return c.sendWindow <= 0
	}
	return c.sendWindow < max(c.fullWindow-max(c.shareOf(), c.late), 1)
}

// windowGiven is called with c.mu held when the peer has enlarged the window of the
// connection.
func (c *h2Conn) windowGiven(n int64) error {
	exhausted, before := c.exhausted(), c.fullWindow-c.sendWindow
	if c.sendWindow += n; c.sendWindow > maxWindow {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if c.sendWindow > c.fullWindow {
		c.fullWindow = c.sendWindow
		c.noteOwing()
	}
	if n <= before { // otherwise it is enlarged, and not given back
		if c.due == 0 || n < c.due {
			c.due = n
		}
		c.given = c.heard
		c.likely = c.likely || n <= c.fullWindow*3/4 // half, and what was read with it
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
			lent := s.lent
			s.moves()
			if s.unread > c.shareOf() { // which says less
				s.extra, s.lent = max(before-c.shareOf(), 0), lent
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
		s.c.given = s.c.heard
		s.moves()
	}
	s.noteOwing()
	s.sendable.Broadcast()
}

// noteWaiting is called with c.mu held by a tunnel that has to wait. It reports that the
// tunnel need not.
func (c *h2Conn) noteWaiting(s *stream) bool {
	if !c.starved && s.sendWindow > 0 && c.sendWindow <= 0 {
		c.starved = true
		if c.ended { // and it was not enough; the proxy has had all since before
			c.waitOn(s)
		} else {
			c.starvedAt, c.starvedAfter, c.reached = time.Now(), c.pings, time.Time{}
		}
		c.lookSoon()
	}
	return c.noteStanding(s)
}

// waitOn begins to wait for the proxy to give something back for which waiter waits.
// After one tunnel, others that stand by themselves go soon.
func (c *h2Conn) waitOn(waiter *stream) {
	c.reached = time.Now()
	wait := c.cfg.StarveTimeout
	if s := c.mostHolding(waiter); c.ended && s != nil && c.standsAlone(s) {
		wait = c.cfg.ShareWait
	}
	c.starving.Reset(wait)
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
	} else {
		c.endStalled(s)
	}
}

// endStalled resets a tunnel for which others wait.
func (c *h2Conn) endStalled(s *stream) {
	c.starved, c.ended = false, true
	c.starving.Stop()
	s.resetLocked(http2.ErrCodeCancel, errStalled)
	c.wakeWriters() // they note that they starve, if they still do
}

// probe sends a PING behind what was sent when there were as many as after, unless there
// is one.
func (c *h2Conn) probe(after uint64) {
	switch {
	case c.pings > after:
	case c.asked.IsZero():
		c.askLocked()
		c.watchAlive()
	default:
		c.sendPing()
	}
}

// onPong is called with c.mu held when the peer has answered a PING: it has all that was
// sent before.
func (c *h2Conn) onPong(ping uint64) {
	if ping > c.pings {
		return // none of ours
	}
	news := false
	if c.starved && c.reached.IsZero() && ping > c.starvedAfter {
		c.waitOn(c.leastWaiting(nil))
		news = true
	}
	if b := c.beyond; b != nil && b.reached.IsZero() && ping > b.letAfter {
		b.reached = time.Now()
		news = true
	}
	if news {
		c.sharing = true
		c.share.Reset(c.cfg.ShareWait)
	}
}

// ought reports whether so much of the tunnel was sent that the proxy, as it is known, would
// have given something back if the destination had taken it all.
func (s *stream) ought() bool {
	switch c := s.c; {
	case s.unread == 0:
		return false
	case s.sendWindow <= 0:
		return true
	case c.late > 0:
		return s.unread >= c.late
	default:
		return c.prompt && s.unread >= c.shareOf()
	}
}

// noteOwing is called when it may have changed whether the tunnel ought to have been given
// something back.
func (s *stream) noteOwing() {
	switch ought := s.ought(); {
	case !ought:
		s.owing = time.Time{}
	case s.owing.IsZero():
		s.owing = time.Now()
	}
}

// noteOwing is for all tunnels, when more is known of the proxy.
func (c *h2Conn) noteOwing() {
	for _, s := range c.streams {
		s.noteOwing()
	}
}

// standsAlone reports whether a tunnel ought to have been given something back for a while
// in which the proxy went on to give windows back. A pause of what is behind the proxy, in
// which all stand, is no fault of one of them; nor is it one that a tunnel had nothing to
// send, or was kept at its share, where the proxy waits for more.
func (c *h2Conn) standsAlone(s *stream) bool {
	return !s.owing.IsZero() && c.given.Sub(s.owing) >= c.cfg.ShareWait
}

// patience is for how long the peer may give nothing back before a tunnel is reset that has
// held too much since then. It is short as well where nothing has ever come back to that
// tunnel, but to others, or others have gone on to send.
func (c *h2Conn) patience(s *stream, since time.Time) time.Duration {
	if c.standsAlone(s) ||
		s.moved.IsZero() && (!c.given.IsZero() || !s.stood.IsZero() && since.Sub(s.stood) >= c.cfg.ShareWait) {
		return c.cfg.ShareWait
	}
	return c.cfg.StarveTimeout
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
