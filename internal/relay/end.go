package relay

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
)

// How a tunnel ends. Each pump reports once how its direction ended; the
// relay draws the consequence for the other side, and the last one to go
// closes both streams (finish). Whoever wants to end it earlier records a
// reason (force) and closes the streams, which unblocks the pumps.

// pumpEnded takes what a pump saw: werr if a write to its destination failed,
// otherwise rerr, the end of its source (io.EOF) or an error.
func (r *Relay) pumpEnded(p *pump, rerr, werr error) {
	switch {
	case werr != nil:
		r.writeFailed(p, werr)
	case rerr == io.EOF:
		r.sourceEnded(p)
	case r.drained(rerr):
		r.drainEnds(p)
	default:
		r.readFailed(p, rerr)
	}
}

// sourceEnded passes the end of a stream on.
func (r *Relay) sourceEnded(p *pump) {
	r.mu.Lock()
	if r.forced != 0 {
		r.mu.Unlock()
		return // the streams are closed, or will be reset by finish
	}
	if r.first == 0 {
		// Only here the state of the socket is telling: the other direction
		// cannot have shut it down, for it would have set r.first before.
		if eofHidesReset(p.src) {
			r.mu.Unlock()
			r.readFailed(p, errHiddenReset)
			return
		}
		r.first = p.side
		r.linger()
	}
	p.through = true
	draining := r.draining != 0
	r.mu.Unlock()

	// When the other direction is through, finish closes the socket at once,
	// which sends the same FIN: one system call less. Streams that are not
	// sockets may tell an end from a close, and a tunnel that is drained is not
	// closed at once.
	if _, ok := p.dst.(*net.TCPConn); ok && !draining && r.running.Load() == 1 {
		return
	}
	if err := p.dst.CloseWrite(); err != nil {
		r.writeFailed(p, err)
	}
}

// readFailed ends the tunnel: the source broke, so what the destination got
// may be a part only, and it must see a reset.
func (r *Relay) readFailed(p *pump, err error) {
	r.breakSide(p.side, p.side.other(), err, false)
	r.closeStreams()
}

// writeFailed ends the tunnel: the destination broke, and the source must not
// believe that what it sent has arrived.
//
// A socket that was reset may still hold what its peer sent before: an origin
// that answers an upload early and closes does just that, and the answer
// explains the reset. So the opposite pump, if it runs, reads on; the dead
// socket ends it as soon as it is empty, and finish resets the other side.
func (r *Relay) writeFailed(p *pump, err error) {
	drain := isReset(err)
	r.breakSide(p.side.other(), p.side, err, drain)
	if !drain {
		r.closeStreams()
	}
}

// breakSide records that one side broke and that the other gets a reset, in
// one step: whoever closes the streams next must see both.
func (r *Relay) breakSide(broken, reset Reason, err error, drain bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.forceLocked(broken.broken(), err) {
		return
	}
	if reset == ReasonClient {
		r.resetClient = true
	} else {
		r.resetOrigin = true
	}
	if drain {
		r.linger()
	}
}

// force records what ends the tunnel from here, and who gets a reset for it. The
// first reason stays.
func (r *Relay) force(reason Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	resting := r.restingLocked(reason)
	if r.forceLocked(reason, nil) && !resting {
		r.resetCutLocked()
	}
}

// restTime is how long a tunnel must have been quiet so that to end it cuts nothing.
const restTime = 2 * time.Second

// restingLocked reports whether a tunnel that is ended now has nothing that would be
// cut off: no byte waits to be delivered, no side has ended and waits for the rest of
// the other one, and no byte has come for a while, or ever.
func (r *Relay) restingLocked(reason Reason) bool {
	switch {
	case r.up.holds() || r.down.holds():
		return false
	case r.first != 0:
		return r.up.through && r.down.through
	case r.up.taken.Load() == 0 && r.down.taken.Load() == 0, reason == ReasonIdle:
		return true
	}
	return time.Since(r.start)-time.Duration(r.last.Load()) >= restTime
}

// resetCutLocked has the sides reset that a tunnel which ends now has cut something
// off. A side that has not got all that the other one sends must not take that for
// all there is; and one whose bytes were taken but not delivered must not believe
// that they have arrived.
func (r *Relay) resetCutLocked() {
	r.resetClient = r.resetClient || !r.down.through || r.up.holds()
	r.resetOrigin = r.resetOrigin || !r.up.through || r.down.holds()
}

// forceLocked is force with r.mu held. It tells whether the reason was taken.
func (r *Relay) forceLocked(reason Reason, err error) bool {
	if r.forced != 0 || r.phase == phaseFinished {
		return false
	}
	r.forced, r.err = reason, err
	return true
}

// closeStreams closes both streams, once. Whoever comes second waits until
// they are closed.
func (r *Relay) closeStreams() {
	r.closing.Lock()
	defer r.closing.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	if r.stop != nil {
		close(r.stop)
	}
	r.mu.Lock()
	resetClient, resetOrigin := r.resetClient, r.resetOrigin
	r.mu.Unlock()
	closeStream(r.client, resetClient)
	closeStream(r.origin, resetOrigin)
}

// finish ends the relay after both pumps have returned.
func (r *Relay) finish() Result {
	r.awaitPeers()
	r.mu.Lock()
	r.phase = phaseFinished
	r.disarm()
	r.unwatch()
	reason, err := r.forced, r.err
	if reason == 0 {
		reason = r.draining
	}
	if reason == 0 {
		reason = r.first
	}
	r.mu.Unlock()

	r.ticks.Wait()
	r.closeStreams()
	up, down := r.Counts()
	return Result{BytesUp: up, BytesDown: down, Reason: reason, Err: err, Duration: time.Since(r.start)}
}

// Reset gives up a stream that no Relay has: with a reset where that is possible,
// so that what was cut off does not look like an end.
func Reset(s Stream) { closeStream(s, true) }

// closeStream closes a stream, with a reset if asked and possible. Errors are
// of no use: the stream is given up.
func closeStream(s Stream, reset bool) {
	if !reset {
		_ = s.Close()
		return
	}
	if a, ok := s.(Aborter); ok {
		a.Abort()
		return
	}
	layers.Abort(s)
}

// isReset tells whether a write failed because the peer is gone, so that
// reading from it will end by itself.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
}
