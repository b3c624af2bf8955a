package proxydial

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/net/http2"
)

// This file contains how an HTTP/2 connection is found to be dead. A peer that has
// gone without a word is noticed by its silence alone: after SignTimeout where a
// CONNECT waits for its answer, after PingInterval where tunnels stand. It is asked
// for a sign of life then, which any frame is. Where none comes within SignTimeout,
// no new tunnel begins on the connection; where none comes within PingTimeout (if
// tunnels stand, also after PingInterval of silence), it ends. That time does not run
// while the PING is still on its way behind what was sent before (pingWay).

var errSilent = errors.New("http2: no sign of life since the request")

// watchAlive sets the timer to when the connection is to be looked at next. It is
// called with c.mu held.
func (c *h2Conn) watchAlive() {
	now := time.Now()
	switch {
	case c.err != nil:
		return
	case !c.asked.IsZero():
		due := c.asked.Add(c.sign)
		if !now.Before(due) {
			if due = c.deadBy(); !c.onWay.arrived && due.After(now.Add(c.sign)) {
				due = now.Add(c.sign)
			}
		}
		c.ping.Reset(due.Sub(now))
	case c.waiting > 0:
		c.ping.Reset(c.heard.Add(c.sign).Sub(now))
	case len(c.streams)+c.reserved > 0:
		c.ping.Reset(c.heard.Add(c.cfg.PingInterval).Sub(now))
	default:
		c.ping.Stop()
	}
}

// checkAlive is called by the timer.
func (c *h2Conn) checkAlive() {
	if asked, overdue := c.look(); overdue {
		// The others first: a CONNECT that is given up here looks for another one.
		c.pool.doubt(asked)
		c.giveUp(asked)
	}
}

// look asks for a sign of life after a silence, and ends the connection where none
// has come. It reports a sign that is overdue, and when it was asked for.
func (c *h2Conn) look() (asked time.Time, overdue bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return time.Time{}, false
	}
	silence := time.Since(c.heard)
	if !c.asked.IsZero() {
		c.followPing()
	}
	switch {
	case !c.asked.IsZero() && !time.Now().Before(c.deadBy()):
		c.failLocked(errPingTimeout)
	case !c.asked.IsZero():
		overdue = time.Since(c.asked) >= c.sign
	case c.waiting > 0 && silence >= c.sign,
		len(c.streams)+c.reserved > 0 && silence >= c.cfg.PingInterval:
		c.askLocked()
	}
	c.watchAlive()
	return c.asked, overdue
}

// deadBy is when the connection ends if no sign of life comes that was asked for. One
// that carries tunnels is given the time that it has without a CONNECT, which may have
// asked earlier: a pause of the path must not cost everybody their tunnels.
func (c *h2Conn) deadBy() time.Time {
	by := c.onWay.from.Add(c.cfg.PingTimeout)
	if len(c.streams)-c.waiting <= 0 {
		return by
	}
	if quiet := c.heard.Add(c.cfg.PingInterval + c.cfg.PingTimeout); quiet.After(by) {
		return quiet
	}
	return by
}

// askLocked sends a PING and waits for a sign of life.
func (c *h2Conn) askLocked() {
	c.asked = time.Now()
	c.onWay = c.newPingWay()
	c.sendPing()
}

func (c *h2Conn) sendPing() {
	c.pings++
	c.pingOut = true
	var content [8]byte
	for i := range content {
		content[i] = byte(c.pings >> (8 * i))
	}
	_ = c.framer.WritePing(false, content) // onPong reads it
}

// giveUp ends the wait of those whose CONNECT may be sent again, unless a sign of
// life has come. The others go on to wait.
func (c *h2Conn) giveUp(asked time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.asked != asked {
		return
	}
	c.doubted = true
	for _, s := range c.streams {
		if s.again && !s.done {
			s.lost = true
			s.resetLocked(http2.ErrCodeCancel, errSilent)
		}
	}
}

// doubt asks for a sign of life if none has come since then, and lets no tunnel
// begin before it has.
func (c *h2Conn) doubt(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.heard.After(since) {
		return
	}
	c.doubted = true
	if c.asked.IsZero() {
		c.askLocked()
		c.watchAlive()
	}
}

// doubt is for all connections: what has cut off one of them may have cut off all.
func (p *pool) doubt(since time.Time) {
	p.mu.Lock()
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	for _, c := range conns {
		c.doubt(since)
	}
}
