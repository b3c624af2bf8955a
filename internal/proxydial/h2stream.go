package proxydial

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/h1"
)

var errAfterCloseWrite = errors.New("after CloseWrite")

// StreamError is the reset of a tunnel by an HTTP/2 proxy.
type StreamError struct{ Code http2.ErrCode }

func (e *StreamError) Error() string { return "http2: stream reset by the proxy: " + e.Code.String() }

// stream is a tunnel over HTTP/2. All fields are guarded by the connection's
// mutex.
type stream struct {
	c  *h2Conn
	id uint32

	replied       chan struct{} // closed with reply, or with err
	done          bool          // replied is closed
	again         bool          // its CONNECT may be sent again on another connection
	reply         Reply
	informational int

	receivable, sendable *sync.Cond
	writers              int // that wait for sendable
	received             byteQueue
	recvWindow           int64 // what the peer may still send
	owed                 int64 // read, but not given back to the peer's window
	sendWindow           int64
	unread               int64 // sent, and not given back to sendWindow

	// Its share of the connection's window; see h2share.go and h2credit.go.
	held     int64     // it holds no more
	owing    time.Time // since when it ought to have been given something back; or zero
	moved    time.Time // when it was last seen that the peer took bytes of it
	standing bool      // it waits for nothing else
	stood    time.Time // since when, but for what it was let send; or zero
	trickled bool      // see trickles
	extra    int64     // that it may hold beyond its share
	lent     bool      // which it was let hold (letBeyond)
	let      time.Time // when that was, if it has not moved since; or zero
	letAfter uint64    // pings then
	reached  time.Time // when a later PING was answered; or zero

	recvClosed bool  // END_STREAM came
	sendClosed bool  // END_STREAM is sent
	closed     bool  // by us, altogether
	err        error // it was reset, or the connection has ended
	retryable  bool  // err says that the peer has not looked at it
	lost       bool  // err is that of the connection

	readBy, writeBy deadline
}

func newStream(c *h2Conn, id uint32) *stream {
	return &stream{
		c: c, id: id,
		replied:    make(chan struct{}),
		receivable: sync.NewCond(&c.mu),
		sendable:   sync.NewCond(&c.mu),
		recvWindow: int64(c.cfg.StreamWindow),
		sendWindow: c.peerWindow,
	}
}

// answered reports whether the final head has come.
func (s *stream) answered() bool { return s.reply.Status != 0 }

// failLocked ends the stream without a word to the peer.
func (s *stream) failLocked(err error, retryable bool) {
	if s.err == nil {
		s.err, s.retryable = unexpectedEOF(err), retryable
	}
	s.removeLocked()
}

// resetLocked ends the stream and tells the peer.
func (s *stream) resetLocked(code http2.ErrCode, err error) {
	if s.c.streams[s.id] == s && s.c.err == nil {
		_ = s.c.framer.WriteRSTStream(s.id, code)
	}
	s.failLocked(err, false)
}

// settle ends the wait for an answer.
func (s *stream) settle() {
	if !s.done {
		s.done = true
		s.c.waiting--
		close(s.replied)
	}
}

// removeLocked takes the stream off the connection and wakes all who wait.
func (s *stream) removeLocked() {
	s.settle()
	s.receivable.Broadcast()
	s.sendable.Broadcast()
	if s.c.streams[s.id] == s {
		delete(s.c.streams, s.id)
		if s.c.beyond == s {
			s.c.beyond = nil
		}
		if len(s.c.streams) == 1 {
			s.c.wakeWriters() // it may have the whole window now
		}
		s.c.slotFreed()
	}
}

// removeIfOver frees the slot when both directions have ended.
func (s *stream) removeIfOver() {
	if s.sendClosed && s.recvClosed {
		s.removeLocked()
	}
}

// onInformational takes in a 1xx. They are bounded by their size, as a part of the
// answer's head, and not by their number.
func (s *stream) onInformational(status int, f *http2.MetaHeadersFrame) {
	for i := range f.Fields {
		s.informational += int(f.Fields[i].Size())
	}
	switch limit := s.c.cfg.MaxReplyHead; {
	case status == 101 || f.StreamEnded():
		s.resetLocked(http2.ErrCodeProtocol, malformed("http2: informational response %d", status))
	case s.informational > limit:
		s.resetLocked(http2.ErrCodeCancel, &MalformedError{Reason: fmt.Sprintf("informational responses over %d bytes", limit), TooLarge: true})
	}
}

func (s *stream) onReply(r Reply, ended bool) {
	s.reply, s.recvClosed = r, ended
	if r.Status > 299 {
		// The stream alone ends; the body is not waited for.
		s.resetLocked(http2.ErrCodeCancel, &ReplyError{r})
		return
	}
	s.settle()
	s.removeIfOver()
}

func (s *stream) onData(f *http2.DataFrame) {
	length := int64(f.Length)
	switch {
	case s.recvClosed:
		s.resetLocked(http2.ErrCodeStreamClosed, malformed("http2: DATA behind the end of the stream"))
		return
	case !s.answered():
		s.resetLocked(http2.ErrCodeProtocol, malformed("http2: DATA before the answer"))
		return
	case length > s.recvWindow:
		s.resetLocked(http2.ErrCodeFlowControl, malformed("http2: more DATA than the window allows"))
		return
	}
	s.recvWindow -= length
	data := f.Data()
	s.owed += length - int64(len(data)) // padding counts, and is read at once
	s.received.write(data)
	if f.StreamEnded() {
		s.recvClosed = true
		s.removeIfOver()
	} else {
		s.giveBack()
	}
	s.receivable.Broadcast()
}

// giveBack enlarges the peer's window by what was read, half a window at a time.
func (s *stream) giveBack() {
	if s.owed < max(int64(s.c.cfg.StreamWindow)/2, 1) || s.recvClosed || s.err != nil || s.closed || s.c.err != nil {
		return
	}
	control := s.c.control
	_ = s.c.framer.WriteWindowUpdate(s.id, uint32(s.owed))
	s.c.control = control // bounded by what the window lets in
	s.recvWindow += s.owed
	s.owed = 0
}

func (s *stream) onReset(code http2.ErrCode) {
	refused := !s.answered() && code == http2.ErrCodeRefusedStream
	s.failLocked(&StreamError{code}, refused)
}

// Read reads what the destination has sent. What had come before a reset is
// delivered first.
func (s *stream) Read(p []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	for {
		switch {
		case s.readBy.passed && !s.closed:
			return 0, os.ErrDeadlineExceeded
		case s.atHandLocked():
			return s.takeLocked(p)
		case len(p) == 0:
			return 0, nil
		}
		s.receivable.Wait()
	}
}

// ReadAtHand is Read, but without waiting: where neither data nor an end has come
// it returns os.ErrDeadlineExceeded, whatever deadline is set.
func (s *stream) ReadAtHand(p []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.atHandLocked() {
		return 0, os.ErrDeadlineExceeded
	}
	return s.takeLocked(p)
}

// atHandLocked reports whether a read has something to return.
func (s *stream) atHandLocked() bool {
	return s.closed || s.received.n > 0 || s.recvClosed || s.err != nil
}

// takeLocked returns what is at hand: data first, then the end.
func (s *stream) takeLocked(p []byte) (int, error) {
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.received.n > 0:
		n := s.received.read(p)
		s.owed += int64(n)
		s.giveBack()
		return n, nil
	case s.recvClosed:
		return 0, io.EOF
	}
	return 0, s.opError("read", s.err)
}

// Write sends p. It returns when all is on its way to the socket, or in it.
func (s *stream) Write(p []byte) (total int, err error) { return s.write(p, true) }

// WriteAtOnce is Write, but without waiting: where the windows, or what waits for the
// socket, leave no room it returns os.ErrDeadlineExceeded.
func (s *stream) WriteAtOnce(p []byte) (int, error) { return s.write(p, false) }

func (s *stream) write(p []byte, wait bool) (total int, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.closed:
			return total, net.ErrClosed
		case s.err != nil:
			return total, s.opError("write", s.err)
		case s.sendClosed:
			return total, &net.OpError{Op: "write", Net: "h2", Err: errAfterCloseWrite}
		case s.writeBy.passed:
			return total, os.ErrDeadlineExceeded
		case len(p) == 0:
			return total, nil
		}
		n := min(int64(len(p)), int64(c.peerFrame), s.sendWindow, c.sendWindow, s.shareLeft())
		if n <= 0 || len(c.out) >= outLimit {
			if !wait {
				return total, os.ErrDeadlineExceeded
			}
			if c.noteWaiting(s) {
				continue
			}
			s.writers++
			s.sendable.Wait()
			s.writers--
			continue
		}
		s.standing = false
		s.sendData(p[:n], false)
		p, total = p[n:], total+int(n)
	}
}

// sendData puts a DATA frame on its way.
func (s *stream) sendData(p []byte, end bool) {
	control := s.c.control
	_ = s.c.framer.WriteData(s.id, end, p)
	s.c.control = control
	s.sendWindow -= int64(len(p))
	s.unread += int64(len(p))
	s.held += int64(len(p))
	s.c.sendWindow -= int64(len(p))
	s.noteOwing()
	s.c.busy = s.c.busy || s != s.c.beyond
}

// CloseWrite ends our direction (END_STREAM), which a proxy makes a FIN (RFC 9113
// §8.5).
func (s *stream) CloseWrite() error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.sendClosed:
		return nil
	case s.err != nil:
		return s.opError("close write", s.err)
	}
	s.endLocked()
	return nil
}

func (s *stream) endLocked() {
	s.sendData(nil, true)
	s.sendClosed = true
	s.sendable.Broadcast()
	s.removeIfOver()
}

// Close ends the tunnel: our direction regularly, the other one, where it has not
// ended, with a reset.
func (s *stream) Close() error { return s.close(false) }

// Abort ends the tunnel with a reset, from which the proxy makes one of its
// connection to the destination.
func (s *stream) Abort() { _ = s.close(true) }

func (s *stream) close(abort bool) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.err == nil {
		if !abort && !s.sendClosed {
			s.endLocked()
		}
		s.resetLocked(http2.ErrCodeCancel, net.ErrClosed)
	}
	s.closed = true
	s.received.drop()
	s.readBy.stop()
	s.writeBy.stop()
	s.receivable.Broadcast()
	s.sendable.Broadcast()
	return nil
}

func (s *stream) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "h2", Addr: s.c.nc.RemoteAddr(), Err: &tunnelError{err}}
}

// tunnelError is why a tunnel broke: to those who use it as a connection, the peer
// has reset it.
type tunnelError struct{ err error }

func (e *tunnelError) Error() string { return e.err.Error() }
func (e *tunnelError) Unwrap() error { return e.err }

// Is reports whether target is syscall.ECONNRESET.
func (e *tunnelError) Is(target error) bool { return target == syscall.ECONNRESET }

// LocalAddr is that of the connection to the proxy.
func (s *stream) LocalAddr() net.Addr { return s.c.nc.LocalAddr() }

// RemoteAddr is the proxy's.
func (s *stream) RemoteAddr() net.Addr { return s.c.nc.RemoteAddr() }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads, also those that run.
func (s *stream) SetReadDeadline(t time.Time) error { return s.set(&s.readBy, s.receivable, t) }

// SetWriteDeadline bounds writes, also those that run.
func (s *stream) SetWriteDeadline(t time.Time) error { return s.set(&s.writeBy, s.sendable, t) }

// deadline is one of the two of a connection.
type deadline struct {
	timer  *time.Timer
	serial uint64 // tells a timer that fires late from the present one
	passed bool
}

func (d *deadline) stop() {
	d.serial++
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (s *stream) set(d *deadline, waiting *sync.Cond, t time.Time) error {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.closed {
		return fmt.Errorf("set deadline: %w", net.ErrClosed)
	}
	d.stop()
	d.passed = false
	if t.IsZero() {
		return nil
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		waiting.Broadcast()
		return nil
	}
	serial := d.serial
	d.timer = time.AfterFunc(left, func() {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		if d.serial == serial {
			d.passed = true
			waiting.Broadcast()
		}
	})
	return nil
}

// Interface guards
var (
	_ net.Conn                        = (*stream)(nil)
	_ interface{ CloseWrite() error } = (*stream)(nil)
	_ interface{ Abort() }            = (*stream)(nil)
	_ h1.AtHandReader                 = (*stream)(nil)
	_ h1.AtOnceWriter                 = (*stream)(nil)
)
