package proxydial

import (
	"time"

	"github.com/caddy-egress/egress/internal/layers"
)

// This file contains where a PING is that waits for its answer. On a slow way it may
// stand for many seconds behind what tunnels have sent before it: in our own buffer, in
// the socket, in front of a narrow link. Bytes that move there show that the way is
// open. They say nothing any more once the peer's system has the PING: then it is the
// program's turn.

// pingWay is how far a PING has come.
type pingWay struct {
	from    time.Time // since when an answer is waited for
	looked  time.Time // when it was last seen not to have arrived
	left    bool      // it is in the socket
	behind  uint64    // how many bytes the peer's system has acknowledged when it has it
	acked   uint64    // how many it had at the last look
	writes  uint64    // of the connection, at the last look
	arrived bool      // at the peer's system, or where that cannot be told: it has left
}

func (c *h2Conn) newPingWay() pingWay {
	acked, _ := layers.Acked(c.nc)
	return pingWay{from: c.asked, looked: c.asked, acked: acked, writes: c.writes.Load()}
}

// pingLeft is called by the writer when the socket has taken a PING.
func (c *h2Conn) pingLeft() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked.IsZero() || c.onWay.left {
		return
	}
	c.onWay.left = true
	acked, ok := layers.Acked(c.nc) // first: too few is better than too many
	if !ok {
		c.onWay.arrived, c.onWay.from = true, time.Now()
		c.watchAlive()
		return
	}
	unsent, _ := layers.Unsent(c.nc)
	c.onWay.behind = acked + uint64(unsent)
}

// followPing looks how far the PING has come that waits for an answer. As long as it
// moves on, the time for the answer has not begun.
func (c *h2Conn) followPing() {
	w, now := &c.onWay, time.Now()
	if w.arrived {
		return
	}
	acked, known := layers.Acked(c.nc)
	w.look(now, acked, known, c.writes.Load())
}

// look takes in how much the peer's system has, if that is known, and how much the
// socket has taken.
func (w *pingWay) look(now time.Time, acked uint64, known bool, writes uint64) {
	moved := known && acked != w.acked || !known && writes != w.writes
	w.acked, w.writes = acked, writes
	switch {
	case w.left && acked >= w.behind:
		w.arrived, w.from = true, w.looked
	case moved:
		w.from = now
	}
	w.looked = now
}
