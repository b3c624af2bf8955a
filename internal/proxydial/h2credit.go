package proxydial

import (
	"sync/atomic"
	"time"
)

// This file contains how it is found out when a proxy gives windows back.
//
// Most give a window back when half of it has been used, or before: a tunnel in company
// may be kept to half. Some wait for more: Apache Traffic Server, for one, until less
// than 16 KiB is left. There, a tunnel that is kept to half would stand for ever. So a
// tunnel that has stood at its share for ShareWait may send a little more, and so on
// until the proxy gives its window back. How much it took is then the share of all
// tunnels to this proxy.
//
// Window given back to a tunnel that has used half at most shows that none of this is
// needed. From then on a tunnel that stands at its share is one whose destination takes
// nothing.

// creditUnit is all of a window. Shares are parts of it.
const creditUnit = 1 << 10

// credit is what is known of one proxy: 0, or the share of a window that is used when it
// is given back: creditUnit/2 for half or less.
type credit struct{ known atomic.Uint32 }

// prompt reports whether the proxy is known to give back half a window.
func (k *credit) prompt() bool { return k.known.Load() == creditUnit/2 }

// share is how much of a window one tunnel may use beside others.
func (k *credit) share(full int64) int64 {
	part := int64(max(k.known.Load(), creditUnit/2))
	return (full*part + creditUnit - 1) / creditUnit
}

// learn records that a window was given back when used bytes of it were.
func (k *credit) learn(used, full int64) {
	full = max(full, 1) // the peer may have shrunk it to nothing
	part := uint32(min((used*creditUnit+full-1)/full, creditUnit))
	for {
		known := k.known.Load()
		if part <= known || k.prompt() || k.known.CompareAndSwap(known, part) {
			return
		}
	}
}

// unlearn records that no more than half was waited for after all: what was learned came
// from a destination that had just been slow.
func (k *credit) unlearn() {
	if known := k.known.Load(); known > creditUnit/2 {
		k.known.CompareAndSwap(known, 0)
	}
}

// forget is for when there is no connection any more: the next may lead to another
// program. That windows are given back late is remembered: it is noticed at once where
// it is not true any more.
func (k *credit) forget() { k.known.CompareAndSwap(creditUnit/2, 0) }

// credited takes in that the peer gives n bytes of its window back. It is called with
// c.mu held, before they are counted.
func (s *stream) credited(n int64) {
	k := &s.c.pool.credit
	used, full := s.unread, s.unread+s.sendWindow
	tried := s.extra > 0
	s.extra, s.standing = 0, false
	switch {
	case k.prompt() || n > used:
		// Nothing new; or the window is not given back, but enlarged.
	case used <= (full+1)/2:
		k.known.Store(creditUnit / 2)
	case tried && n > (full+1)/2:
		k.learn(n, full)
		s.c.wakeWriters()
		s.c.pool.wake() // connections may not be exhausted any more
	case n <= (full+1)/2:
		k.unlearn()
	}
}

// noteStanding is called with c.mu held by a tunnel that has to wait.
func (c *h2Conn) noteStanding(s *stream) {
	if s.standing || c.pool.credit.prompt() || !s.atShare() {
		return
	}
	s.standing, s.stood = true, time.Now()
	if !c.sharing {
		c.sharing = true
		c.share.Reset(c.cfg.ShareWait)
	}
}

// atShare reports whether nothing but its share keeps the tunnel from sending.
func (s *stream) atShare() bool {
	return s.sendWindow > 0 && s.c.sendWindow > 0 && s.shareLeft() <= 0
}

// extendShares lets the tunnels send a little more that have stood at their share for
// ShareWait.
func (c *h2Conn) extendShares() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sharing = false
	if c.err != nil || c.pool.credit.prompt() {
		return
	}
	now, next := time.Now(), time.Duration(0)
	for _, s := range c.streams {
		if !s.standing {
			continue
		}
		if left := c.cfg.ShareWait - now.Sub(s.stood); left > 0 {
			if next == 0 || left < next {
				next = left
			}
			continue
		}
		s.standing = false // it notes that it stands, if it still does
		if s.writers > 0 && s.atShare() {
			s.extra += c.shareStep(s)
		}
		s.sendable.Broadcast()
	}
	if next > 0 {
		c.sharing = true
		c.share.Reset(next)
	}
}

// shareStep is a frame, and more where it would take many frames to find out.
func (c *h2Conn) shareStep(s *stream) int64 {
	return max(maxSendFrame, max(s.full, c.fullWindow)/16)
}
