package exchange

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/retry"
)

// upload sends the client's body to the origin while the response is awaited,
// so that an early response is seen at once. It has one goroutine per attempt,
// which has always ended when the attempt ends.
type upload struct {
	t               *Exchange
	rc              *http.ResponseController
	expectsContinue bool
	continued       bool  // the client has been told to go on
	halfDuplex      bool  // nothing may be written to the client while its body is read
	length          int64 // -1 when chunked

	conn   *h1.Conn
	done   chan struct{} // nil until started; closed when the goroutine has ended
	waited bool          // see Waits

	mu      sync.Mutex
	final   bool      // the final response head is there
	out     time.Time // when the wait for the head has begun; zero while it has not
	hurried bool      // the write deadline is no longer ours to extend

	clean  atomic.Bool // the client's body was read to its clean end
	broken atomic.Bool // some of it could not be written
	drop   atomic.Bool // read on for a while, but send nothing

	sent  atomic.Int64 // bytes of the body sent
	clErr atomic.Pointer[error]

	// Owned by the goroutine until clean is set, or done is closed.
	read int64  // bytes read from the client
	kept []byte // the body so far, to be sent again
	lost bool   // kept is not the whole of it
}

// chunkRoom is what a chunk needs in front of its data: a size in hex, CRLF.
const chunkRoom = 16 + 2

// uploadPiece is what is read from the client at once: a body of 64 KiB leaves with
// two writes, as the server has some of it in its own buffer already.
const uploadPiece = 64 << 10

var uploadBuffers = sync.Pool{New: func() any { b := make([]byte, chunkRoom+uploadPiece+256); return &b }}

// errBodyLength is a body of another length than its Content-Length.
var errBodyLength = errors.New("the body is not as long as its Content-Length")

func newUpload(t *Exchange) *upload {
	u := &upload{
		t:               t,
		rc:              http.NewResponseController(t.Writer),
		length:          t.HTTP.ContentLength,
		expectsContinue: t.HTTP.ProtoAtLeast(1, 1) && h1.HasToken(t.HTTP.Header.Get("Expect"), "100-continue"),
	}
	u.lost = !retry.Idempotent(t.HTTP.Method)
	u.halfDuplex = t.HTTP.ProtoMajor == 1 && touchesHeader(t.HTTP.Body)
	// Without it, net/http would swallow the rest of the body before it
	// lets an early response out.
	_ = u.rc.EnableFullDuplex()
	return u
}

// start begins to send on c.
func (u *upload) start(c *h1.Conn) {
	_ = c.SetReadDeadline(time.Time{})
	c.DeadlineMayBeArmed() // by the goroutine, when the request is out
	u.conn, u.done, u.hurried, u.out = c, make(chan struct{}), false, time.Time{}
	u.broken.Store(false)
	u.sent.Store(0)
	go u.run()
}

// run reads from the client and writes to the origin until either ends.
func (u *upload) run() {
	defer close(u.done)
	buf := uploadBuffers.Get().(*[]byte)
	defer uploadBuffers.Put(buf)
	if !u.resend() {
		return
	}
	for !u.clean.Load() {
		n, err := u.t.Reader.Read((*buf)[chunkRoom : chunkRoom+uploadPiece])
		u.read += int64(n)
		// Kept even if the attempt has failed meanwhile: a body is sent again
		// whole or not at all.
		u.keep((*buf)[chunkRoom : chunkRoom+n])
		switch {
		case u.length >= 0 && u.read > u.length, err == io.EOF && u.read < u.length:
			// HTTP/3 does not see to it that a body is as long as it said.
			u.fail(errBodyLength)
			return
		case err == io.EOF || err == nil && u.length > 0 && u.read == u.length:
			u.clean.Store(true)
		case err != nil:
			u.fail(err)
			return
		}
		if !u.forward(*buf, n) {
			return
		}
	}
	u.armHeadDeadline()
}

// forward sends n bytes that stand in buf behind chunkRoom. It reports whether
// to go on.
func (u *upload) forward(buf []byte, n int) bool {
	if !u.drop.Load() {
		err := u.write(buf, n)
		if err == nil {
			u.sent.Add(int64(n))
			return true
		}
		u.writeFailed(err)
	}
	// On HTTP/1, bytes that nobody reads would reset the answer.
	return u.t.HTTP.ProtoMajor == 1 && u.read < lingerBytes+u.sent.Load()
}

// writeFailed stops the sending. The origin may have answered and closed: the
// response is read all the same, and tells what is wrong if there is none. An
// origin that takes nothing for as long as it may take to answer has had its
// time.
func (u *upload) writeFailed(err error) {
	u.broken.Store(true)
	u.drop.Store(true)
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.final:
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = u.conn.ArmReadDeadline(LongAgo)
	default:
		u.waitForHead()
	}
}

// send writes to the origin, which must take something in the time that it has
// to answer.
func (u *upload) send(p []byte) error {
	u.mu.Lock()
	if !u.hurried {
		_ = u.conn.SetWriteDeadline(u.t.headDeadline(time.Now()))
	}
	u.mu.Unlock()
	_, err := u.conn.Write(p)
	return err
}

// hurry bounds what is being written, and whatever may follow.
func (u *upload) hurry(deadline time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hurried = true
	_ = u.conn.SetWriteDeadline(deadline)
}

// write sends n bytes as they are, or as a chunk in one write with its frame.
func (u *upload) write(buf []byte, n int) error {
	if u.length >= 0 {
		if n == 0 {
			return nil
		}
		return u.send(buf[chunkRoom : chunkRoom+n])
	}
	out := buf[chunkRoom : chunkRoom+n]
	if n > 0 {
		var size [chunkRoom]byte
		head := append(strconv.AppendInt(size[:0], int64(n), 16), '\r', '\n')
		from := chunkRoom - len(head)
		copy(buf[from:], head)
		out = append(buf[from:chunkRoom+n], '\r', '\n')
	}
	if u.clean.Load() {
		out = append(out, "0\r\n"...)
		out = u.appendTrailer(out)
		out = append(out, "\r\n"...)
	}
	if len(out) == 0 {
		return nil
	}
	return u.send(out)
}

// appendTrailer adds the client's trailer fields.
func (u *upload) appendTrailer(b []byte) []byte {
	for name, values := range u.t.requestTrailer() {
		for _, value := range values {
			if h1.ValidField(name, value) {
				b = h1.AppendField(b, name, value)
			}
		}
	}
	return b
}

// fail ends an upload whose client has failed. The origin must not take what it
// has got for the whole: the connection closes, unless the response is there.
func (u *upload) fail(err error) {
	u.clErr.Store(&err)
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.final {
		_ = u.conn.Close()
	}
}

// armHeadDeadline gives the origin its time to answer, from the moment that the
// request is out, unless it has answered already.
func (u *upload) armHeadDeadline() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.final {
		u.waitForHead()
	}
}

// waitForHead begins to wait. u.mu is held.
func (u *upload) waitForHead() {
	u.out = time.Now()
	_ = u.conn.ArmReadDeadline(u.t.headDeadline(u.out))
}

// extendHeadDeadline lets the origin, which has sent an informational response, take
// longer, if it is waited for already.
func (u *upload) extendHeadDeadline() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.out.IsZero() {
		_ = u.conn.ArmReadDeadline(u.t.extended(u.out))
	}
}

// finalHead takes note that the final response head has come. Where the origin
// has refused the request, the rest of the body is not sent.
func (u *upload) finalHead(status int) {
	u.mu.Lock()
	u.final = true
	u.mu.Unlock()
	if u.done == nil {
		return
	}
	if !u.clean.Load() && status >= 300 {
		u.drop.Store(true)
		u.hurry(LongAgo)
	}
	u.alone(false)
	if u.clean.Load() {
		u.t.BodyRead = true
	}
}

// LongAgo is a deadline in the past: it interrupts what waits.
var LongAgo = time.Unix(1, 0)

// settle ends the sending when the attempt ends. It reports whether the whole
// body has been sent, so that the connection is in a known state. Where it has
// not, the goroutine may still read from the client, which join waits for; the
// connection it no longer touches.
func (u *upload) settle(err error) (complete bool) {
	u.waited = false
	if u.done == nil {
		return false
	}
	if !u.ended() && u.clean.Load() && err == nil {
		// The last bytes are being written. The origin has answered, so it
		// either takes them now or never will.
		u.hurry(time.Now().Add(lingerTimeout))
		<-u.done
	}
	u.t.BodyRead = u.clean.Load()
	u.waited = !u.clean.Load() && !u.broken.Load()
	if u.ended() && u.clean.Load() && !u.drop.Load() {
		return u.conn.SetWriteDeadline(time.Time{}) == nil
	}
	u.drop.Store(true)
	_ = u.conn.Close()
	return false
}

func (u *upload) ended() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// join waits for the goroutine to end: the body must not be read once the
// handler has returned. With linger, an HTTP/1 client that is still sending is
// listened to for a while, as in Exchange.Linger.
func (u *upload) join(linger bool) {
	if u.done == nil || u.ended() {
		return
	}
	deadline := LongAgo
	if linger && u.t.HTTP.ProtoMajor == 1 && u.rc.Flush() == nil {
		deadline = time.Now().Add(lingerTimeout)
	}
	_ = u.rc.SetReadDeadline(deadline)
	<-u.done
}

// EndUpload sees to it that the body of the request is read no more.
func (t *Exchange) EndUpload(linger bool) {
	if t.upload != nil {
		t.upload.join(linger)
	}
}

// blame puts a failure of the client's own body in front of what followed from
// it.
func (u *upload) blame(err error) error {
	clientErr := u.clErr.Load()
	if err == nil || clientErr == nil || u.t.Committed {
		return err
	}
	if _, ok := errors.AsType[*http.MaxBytesError](*clientErr); ok {
		return failure.BodySize.Because(*clientErr)
	}
	return failure.Request.Because(fmt.Errorf("reading the request body: %w", *clientErr))
}

// Waits reports whether the client had yet to send some of the body when the attempt ended,
// and all that it had sent could be written: whatever has ended the connection, it may be
// that.
func (u *upload) Waits() bool { return u.waited }

// Replayable reports whether all of the body that was read is at hand. It waits
// for nothing: what was read to its end is kept, or lost, by then.
func (u *upload) Replayable() bool {
	return u.done == nil || u.clean.Load() && !u.lost
}

// Rewind prepares a replayable body to be sent again. The attempt has ended.
func (u *upload) Rewind() {
	if u.done != nil {
		<-u.done // its connection is closed: it ends at once
	}
	u.done = nil
	u.drop.Store(false)
}

// keep remembers what was read, as long as it is little and may be sent again.
func (u *upload) keep(p []byte) {
	if u.lost {
		return
	}
	if len(u.kept)+len(p) > retry.MaxReplay {
		u.lost, u.kept = true, nil
		return
	}
	u.kept = append(u.kept, p...)
}

// resend sends the body that an attempt before has read. It reports whether
// there is more to do.
func (u *upload) resend() bool {
	if !u.clean.Load() {
		return true
	}
	buf := make([]byte, chunkRoom+len(u.kept)+256)
	copy(buf[chunkRoom:], u.kept)
	if err := u.write(buf, len(u.kept)); err != nil {
		u.writeFailed(err)
		return false
	}
	u.sent.Store(int64(len(u.kept)))
	u.armHeadDeadline()
	return false
}
