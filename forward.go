package egress

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
)

// maxInformational bounds the 1xx responses to one request.
const maxInformational = 8

// requestHeads and copyBuffers are borrowed for an exchange.
var (
	requestHeads = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}
	copyBuffers  = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
	heads        = sync.Pool{New: func() any { return &h1.Head{Fields: make([]h1.Field, 0, 24)} }}
)

// maxPooledHead keeps buffers that a huge head has grown out of the pool.
const maxPooledHead = 16 << 10

// exchange forwards one request to its origin and relays the response.
func (t *transaction) exchange() error {
	if t.loops() {
		return failLoop
	}
	if n, ok := t.maxForwards(); ok && n == 0 {
		return t.answerLastHop()
	}
	if err := t.peekBody(); err != nil {
		return err
	}
	buf := requestHeads.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxPooledHead {
			requestHeads.Put(buf)
		}
	}()
	var err error
	if *buf, err = t.appendRequestHead((*buf)[:0]); err != nil {
		return err
	}
	if !t.bodyRead {
		t.upload = newUpload(t)
	}
	t.bound = namesConnectionAuth(t.r.Header["Authorization"])
	for {
		again, err := t.attempt(*buf, t.upload)
		if !again {
			return err
		}
	}
}

// attempt runs the exchange on one connection. again is true where the retry
// table of upstream connections allows another attempt, which is made on a fresh
// connection, once.
func (t *transaction) attempt(head []byte, up *upload) (again bool, err error) {
	l, err := t.acquire(t.out.attempts > 0)
	t.out.attempts++
	if err != nil {
		return false, err
	}
	c := l.Conn().Conn
	c.Begin()
	stop := context.AfterFunc(t.r.Context(), func() { _ = c.Close() })
	settled := false
	defer func() {
		if !settled { // a writer has panicked
			stop()
			_ = c.Close()
			c.End()
			l.Discard()
		}
	}()
	resp, err := t.roundTrip(c, l.Reused(), head, up)
	undisturbed := stop()
	uploaded := true
	if up != nil {
		uploaded = up.settle(err)
		t.out.bytesUp = up.sent.Load()
		err = up.blame(err)
	}
	settled = true
	if reusable := c.End(); reusable && err == nil && undisturbed && uploaded && !t.bound && !t.h.pool.retired.Load() {
		l.Release(keepFor(resp.KeepAlive))
	} else {
		l.Discard()
	}
	if err == nil {
		return false, nil
	}
	stale, ok := errors.AsType[*staleError](err)
	return ok && t.mayRetry(stale, up), err
}

// keepFor is how long a connection may stay idle whose origin promised to keep
// it for the given time: a second less, to be first. 0 is the pool's own.
func keepFor(promised time.Duration) time.Duration {
	if promised == 0 {
		return 0
	}
	return max(promised-time.Second, time.Millisecond)
}

// staleError is a connection that failed before any byte of a response came.
type staleError struct {
	written bool // some of the request may have reached the origin
	err     error
}

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Unwrap() error { return e.err }

// mayRetry is the retry table for origins reached directly. A fresh connection
// is never given a second chance: what is wrong there is not the pool's doing.
func (t *transaction) mayRetry(stale *staleError, up *upload) bool {
	switch {
	case !t.out.reused || t.out.attempts > 1 || t.clientGone():
		return false
	case !stale.written:
		return up == nil || up.untouched()
	case !safeToRepeat(t.r.Method):
		return false
	default:
		return up == nil || up.rewind()
	}
}

// safeToRepeat reports whether a method is idempotent (RFC 9110 §9.2.2). An
// Idempotency-Key makes no difference: it is the client who may repeat then.
func safeToRepeat(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// errUnsolicited is a response that was there before its request.
var errUnsolicited = &h1.ProtocolError{Reason: "bytes before the request was sent"}

// roundTrip writes the request, reads the response and relays it.
func (t *transaction) roundTrip(c *h1.Conn, reused bool, head []byte, up *upload) (h1.Response, error) {
	if !reused && !t.https && !c.Alive() {
		// What an origin says before it was asked would be taken for the
		// answer. (With TLS, what is there may be a session ticket.)
		return h1.Response{}, errUnsolicited
	}
	if n, err := c.Write(head); err != nil {
		return h1.Response{}, &staleError{written: n > 0, err: err}
	}
	hd := heads.Get().(*h1.Head)
	defer heads.Put(hd)
	if err := t.readFinalHead(c, hd, up); err != nil {
		return h1.Response{}, noResponse(c, err)
	}
	t.out.ttfb = time.Since(t.start)
	resp, err := c.Frame(hd, t.r.Method)
	if err != nil {
		return resp, err
	}
	if hd.Status == http.StatusProxyAuthRequired {
		// The client would take it for our own challenge and send its
		// credentials for us to a stranger.
		return resp, &h1.ProtocolError{Reason: "407 from an origin"}
	}
	t.bound = t.bound || authenticatesConnection(hd)
	if up != nil {
		up.finalHead(hd.Status)
	}
	t.writeResponseHead(hd, resp)
	return resp, t.relayBody(c, resp)
}

// noResponse sorts an error of reading the response head: nothing came at all,
// or it took too long, or what came is malformed.
func noResponse(c *h1.Conn, err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &explained{failHeadTimeout, err}
	case errors.Is(err, h1.ErrClosedBeforeResponse),
		!c.Heard() && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		return &staleError{written: true, err: err}
	}
	return err
}

// readFinalHead reads response heads until the final one and forwards the
// informational ones (RFC 9110 §15.2). It starts the upload: at once, or where
// the client expects a 100, when the origin has said so or has been silent for
// long enough (§10.1.1).
func (t *transaction) readFinalHead(c *h1.Conn, hd *h1.Head, up *upload) error {
	waiting := up != nil && up.expectsContinue
	switch {
	case waiting:
		if err := c.SetReadDeadline(time.Now().Add(time.Duration(t.h.transport.ExpectContinueTimeout))); err != nil {
			return err
		}
	case up != nil:
		up.start(c)
	default:
		if err := c.SetReadDeadline(t.headDeadline()); err != nil {
			return err
		}
	}
	for informational := 0; ; {
		err := c.ReadHead(hd, int(t.h.transport.MaxResponseHeader))
		if waiting && errors.Is(err, os.ErrDeadlineExceeded) {
			waiting = false
			t.writeContinue(up)
			up.start(c)
			continue
		}
		if err != nil {
			return err
		}
		if hd.Status >= 200 {
			return nil
		}
		if informational++; informational > maxInformational {
			return &h1.ProtocolError{Reason: "too many informational responses"}
		}
		if err := t.informational(c, hd, up, &waiting); err != nil {
			return err
		}
	}
}

// informational handles a 1xx response: a 100 that was waited for is passed on
// and starts the upload.
func (t *transaction) informational(c *h1.Conn, hd *h1.Head, up *upload, waiting *bool) error {
	switch {
	case hd.Status == http.StatusSwitchingProtocols:
		return &h1.ProtocolError{Reason: "101 without an upgrade that was asked for"}
	case hd.Status == http.StatusContinue && up != nil && up.expectsContinue:
		t.writeContinue(up)
		if *waiting {
			*waiting = false
			up.start(c)
		}
	default:
		t.writeInformational(hd)
	}
	return nil
}

func (t *transaction) headDeadline() time.Time {
	return time.Now().Add(time.Duration(t.h.transport.ResponseHeaderTimeout))
}

// relayBody copies the response body to the client. What is at hand leaves with
// the head in one write; before it waits for more, it flushes what there is.
//
// The writer is used directly, not by io.Copy: net/http's ReadFrom flushes the
// head on its own and takes a new buffer each time.
func (t *transaction) relayBody(c *h1.Conn, resp h1.Response) error {
	if c.BodyDone() {
		if t.r.ProtoMajor == 3 {
			t.flush() // or a Content-Length of 0 would be made up
		}
		return nil
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	if c.Buffered() == 0 {
		t.flush()
	}
	body := c.Body()
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			t.out.bytesDown += int64(n)
			if _, werr := t.w.Write((*buf)[:n]); werr != nil {
				return &explained{failCanceled, werr}
			}
		}
		switch {
		case err == nil:
			if c.Buffered() == 0 {
				t.flush()
			}
		case err == io.EOF:
			t.writeTrailer(c)
			return nil
		default:
			return err
		}
	}
}

// flush sends the client what is there. An error shows at the next write.
func (t *transaction) flush() { _ = http.NewResponseController(t.w).Flush() }

// answerLastHop answers a TRACE or OPTIONS request whose Max-Forwards is used up
// (RFC 9110 §7.6.2, §9.3.7, §9.3.8).
func (t *transaction) answerLastHop() error {
	header := t.w.Header()
	t.closeClientConnection()
	t.committed = true
	if t.r.Method == http.MethodOptions {
		header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT")
		header.Set("Content-Length", "0")
		t.w.WriteHeader(http.StatusOK)
		return nil
	}
	header.Set("Content-Type", "message/http")
	t.w.WriteHeader(http.StatusOK)
	// Credentials are not reflected (RFC 9110 §9.3.8).
	seen := t.r.Header.Clone()
	for _, name := range []string{"Proxy-Authorization", "Authorization", "Cookie"} {
		seen.Del(name)
	}
	if _, err := io.WriteString(t.w, "TRACE "+t.r.RequestURI+" "+t.r.Proto+"\r\nHost: "+t.r.Host+"\r\n"); err != nil {
		return err
	}
	return seen.Write(t.w)
}
