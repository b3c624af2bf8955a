package proxydial

import "time"

// This file contains how a tunnel gets beyond its share (h2share.go) where the proxy
// waits for that.
//
// Most proxies give a window back when half of it has been used, or before: a tunnel in
// company may be kept to half. Some wait for more: Apache Traffic Server, for one, until
// less than 16 KiB is left. There, a tunnel that is kept to half would stand for ever. So
// a tunnel that has stood at its share for ShareWait is let beyond it, by a step in each
// ShareWait. One tunnel is let beyond at a time, by turns, and a part of the window is kept
// for the others as long as they send. Where nothing is given back, and others have to
// wait, the one that has stood the longest is reset.
//
// How the proxy gives windows back is learned for each connection: another one may lead
// to another program.

// rarely is how many StarveTimeouts a tunnel stands where windows are known to be given
// back from within a share.
const rarely = 6

// standWait is how long a tunnel stands at its share before it is let beyond it.
func (c *h2Conn) standWait() time.Duration {
	switch {
	case c.late > 0:
		return 0
	case c.prompt:
		return rarely * c.cfg.StarveTimeout
	}
	return c.cfg.ShareWait
}

// kept is how much of the window those leave to others that are let beyond their share.
// It is less than a frame: some proxies wait until not even that is left.
func (c *h2Conn) kept() int64 { return min(c.fullWindow/8, maxSendFrame/2) }

// learn takes in that n bytes of a tunnel's window are given back when used bytes of it
// were used.
func (c *h2Conn) learn(s *stream, n, used int64) {
	share, prompt, late := c.shareOf(), c.prompt, c.late
	switch {
	case used <= share:
		c.prompt, c.late, c.lateOnce = true, 0, time.Time{}
	case n <= share:
		c.late = 0 // the destination had been slow, or is
	case s.extra == 0 || !s.lent: // that much could only be sent as more came back
	case c.likely && c.lateOnce.IsZero():
		c.lateOnce = c.heard // or it was a pause, of all streams at once
	case c.likely && c.heard.Sub(c.lateOnce) < c.cfg.ShareWait:
	default:
		c.prompt, c.late = false, max(c.late, min(n, c.fullWindow))
		c.wakeWriters()
		c.pool.wake() // the connection may not be exhausted any more
	}
	if c.prompt != prompt || c.late != late {
		c.noteOwing()
	}
}

// atShare reports whether nothing but its share keeps the tunnel from sending.
func (s *stream) atShare() bool {
	return s.sendWindow > 0 && s.c.sendWindow > 0 && s.shareLeft() <= 0
}

// noteStanding is called with c.mu held by a tunnel that has to wait. It reports that
// the tunnel need not.
func (c *h2Conn) noteStanding(s *stream) bool {
	if !s.atShare() {
		return false
	}
	if c.late > 0 && s.letBeyond(c.late, 0) {
		return true
	}
	if s.standing = true; s.stood.IsZero() {
		s.stood = time.Now()
	}
	c.lookSoon()
	return c.beyond != nil && c.beyond != s && s.trickles()
}

// lookSoon has lookAtShares called.
func (c *h2Conn) lookSoon() {
	if !c.sharing {
		c.sharing = true
		c.share.Reset(c.cfg.ShareWait)
	}
}

// letBeyond lets the tunnel hold as much as limit, if no other one is beyond its share
// and what is to be kept is left then. It reports whether the tunnel may send.
func (s *stream) letBeyond(limit, kept int64) bool {
	c := s.c
	more := min(limit-s.held, c.sendWindow-kept)
	if c.beyond != nil && c.beyond != s || more <= 0 {
		return false
	}
	c.beyond, s.let, s.lent = s, time.Now(), true
	s.letAfter, s.reached = c.pings, time.Time{}
	s.extra = s.held + more - c.shareOf()
	return true
}

// moves is called when it shows that the proxy has taken bytes of the tunnel.
func (s *stream) moves() {
	s.moved, s.standing, s.extra, s.lent = s.c.heard, false, 0, false
	s.stood, s.let, s.trickled = time.Time{}, time.Time{}, false
	s.owing = time.Time{} // it owes again from now on, if it still does
	s.noteOwing()
	if s.c.beyond == s {
		s.c.beyond = nil
	}
}

// lookAtShares lets a tunnel beyond its share, or ends one that nothing came back to.
func (c *h2Conn) lookAtShares() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sharing = false
	if c.err != nil {
		return
	}
	now, busy := time.Now(), c.busy
	c.busy = false
	next := c.longestStanding()
	if c.starved || next != nil || c.beyond.stands() {
		c.lookSoon()
	}
	if c.starved {
		switch {
		case !c.reached.IsZero():
			c.endBlocking(c.starvedAt, c.reached, now)
		case now.Sub(c.starvedAt) >= c.cfg.ShareWait/2: // no PING for each moment without a window
			c.probe(c.starvedAfter)
		}
		return
	}
	if b := c.beyond; b != nil {
		for _, s := range c.streams {
			if s != b && s.stands() && s.trickles() {
				s.sendable.Broadcast()
			}
		}
		switch tried := now.Sub(b.let); {
		case next == nil:
			if b.stands() && tried >= c.standWait() {
				c.letFurther(b, busy)
			}
			return
		case c.sendWindow <= c.kept():
			switch {
			case !b.reached.IsZero():
				c.endBlocking(b.let, b.reached, now)
			case tried >= c.cfg.ShareWait/2:
				c.probe(b.letAfter)
			}
			return
		case tried < c.cfg.ShareWait:
			return
		}
		c.beyond = nil // it is the next one's turn
	}
	if next != nil && now.Sub(next.stood) >= c.standWait() {
		c.letFurther(next, busy)
	}
}

// endBlocking resets the tunnel that may keep the proxy from giving anything back, if none
// has come since then, for long enough since the proxy had all that was sent.
func (c *h2Conn) endBlocking(since, reached, now time.Time) {
	if s := c.blocking(since); s != nil && now.Sub(reached) >= c.patience(s, since) && (!c.starved || c.leastWaiting(s) != nil) {
		c.endStalled(s)
	}
}

// trickles lets a tunnel that stands while another one is beyond its share send a little,
// once until it shows to move.
func (s *stream) trickles() bool {
	if s.trickled {
		return false
	}
	s.trickled, s.standing = true, false
	s.extra = s.held + maxSendFrame/8 - s.c.shareOf()
	return true
}

// letFurther lets a tunnel that stands send a step more. If others send, a part of the
// window is kept for them.
func (c *h2Conn) letFurther(s *stream, others bool) bool {
	kept := int64(0)
	if others {
		kept = c.kept()
	}
	if !s.letBeyond(s.held+c.shareStep(), kept) {
		return false
	}
	s.standing = false // it notes that it stands, if it still does
	s.sendable.Broadcast()
	return true
}

// stands reports whether the tunnel waits for nothing but its share.
func (s *stream) stands() bool {
	return s != nil && s.standing && s.writers > 0 && s.atShare()
}

// shareStep is a frame, and more where it would take many frames to find out.
func (c *h2Conn) shareStep() int64 { return max(maxSendFrame, c.fullWindow/16) }

// longestStanding returns the tunnel whose turn is next to be let beyond its share: whose
// last one was the longest ago, or who has stood there the longest.
func (c *h2Conn) longestStanding() (longest *stream) {
	for _, s := range c.streams {
		s.standing = s.stands()
		if s.standing && s != c.beyond && (longest == nil || s.let.Before(longest.let) ||
			s.let.Equal(longest.let) && s.stood.Before(longest.stood)) {
			longest = s
		}
	}
	return longest
}

// blocking returns the tunnel that has stood the longest of those that have not been seen
// to move since then and may hold so much that the proxy cannot give the connection
// anything back: their share or more, or more than what is left when the proxy does that.
func (c *h2Conn) blocking(since time.Time) (first *stream) {
	limit := c.shareOf() - 1
	if c.due > 0 {
		limit = min(limit+1, c.fullWindow-c.due)
	}
	for _, s := range c.streams {
		if s.held > limit && s.moved.Before(since) && (first == nil || s.moved.Before(first.moved) ||
			s.moved.Equal(first.moved) && s.stoodBefore(first)) {
			first = s
		}
	}
	return first
}

// stoodBefore reports whether the tunnel has stood at its share for longer than another.
func (s *stream) stoodBefore(o *stream) bool {
	return !s.stood.IsZero() && (o.stood.IsZero() || s.stood.Before(o.stood))
}
