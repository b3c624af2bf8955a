package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// This file contains how a tunnel is ended from outside with notice: what has arrived
// is still relayed, and then both peers see the end of the stream, or a reset if the
// tunnel was in use.
//
// A socket that is closed while it holds bytes that nobody has read resets the
// connection, and takes with it what was sent before. So the reads of both
// directions get a deadline, at which each direction ends as if its source had; and
// what comes in after that is thrown away until the peer has seen the end and ends
// its own side, or until time is up.

// Drain ends the tunnel. For the time of settle, it goes on. If it is quiet then, so
// that nothing is cut, both peers are told the end of the stream, and both streams
// are closed as soon as the peers have ended too, or at the latest when
// linger has passed on top of settle. Otherwise the sides that have not got all get a
// reset. The reason appears in the Result unless the tunnel was ending for another one, or breaks
// meanwhile.
//
// A stream that has no SetReadDeadline makes this End, and so does a relay that has
// not begun. A second call does nothing.
func (r *Relay) Drain(reason Reason, settle, linger time.Duration) {
	if !r.drain(reason, settle, linger) {
		r.End(reason)
	}
}

// drain reports false if the tunnel cannot be drained.
func (r *Relay) drain(reason Reason, settle, linger time.Duration) bool {
	// While this is held nobody closes the streams: one of an HTTP handler may
	// not be touched after that.
	r.closing.Lock()
	defer r.closing.Unlock()
	if r.closed {
		return true
	}
	r.mu.Lock()
	if r.phase == phaseNew {
		r.mu.Unlock()
		return false
	}
	if r.forced != 0 || r.draining != 0 {
		r.mu.Unlock()
		return true
	}
	now := time.Since(r.start)
	r.draining, r.drainBy = reason, now+settle+linger
	if r.phase == phaseRunning {
		r.arm(now)
	}
	r.mu.Unlock()
	at := time.Now().Add(settle)
	return readUntil(r.client, at) && readUntil(r.origin, at)
}

// readUntil gives the reads of a stream a deadline.
func readUntil(s Stream, at time.Time) bool {
	d, ok := s.(interface{ SetReadDeadline(time.Time) error })
	return ok && d.SetReadDeadline(at) == nil
}

// drained reports whether a read has failed because the tunnel is being drained: by
// its deadline, or because the stream cannot be ended in one direction only, so that
// telling its peer the end has closed it.
func (r *Relay) drained(rerr error) bool {
	if !errors.Is(rerr, os.ErrDeadlineExceeded) && !errors.Is(rerr, net.ErrClosed) && !errors.Is(rerr, io.ErrClosedPipe) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining != 0
}

// drainEnds ends the direction of p, whose source has not ended by itself. The first
// direction to come decides for both.
func (r *Relay) drainEnds(p *pump) {
	r.mu.Lock()
	if !r.drainQuiet {
		r.drainQuiet = r.restingLocked(r.draining)
	}
	cut := !r.drainQuiet && r.forceLocked(r.draining, nil)
	if cut {
		r.resetCutLocked()
	}
	r.mu.Unlock()
	if cut {
		r.closeStreams()
		return
	}
	r.sourceEnded(p)
}

// awaitPeers waits, where a tunnel was drained, until both peers have ended their
// side too. The timer closes the streams when that takes too long.
func (r *Relay) awaitPeers() {
	r.mu.Lock()
	drained := r.draining != 0 && r.forced == 0
	by := r.start.Add(r.drainBy)
	r.mu.Unlock()
	if !drained {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { discard(r.client, by) })
	both.Go(func() { discard(r.origin, by) })
	both.Wait()
}

// discard reads a connection to its end. Other streams do not tell their peer the
// end before they are closed, so there is nothing to wait for.
func discard(s Stream, by time.Time) {
	if conn, ok := s.(net.Conn); ok && conn.SetReadDeadline(by) == nil {
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{conn})
	}
}
