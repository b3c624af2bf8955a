package exchange

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/retry"
)

// requestHeads and copyBuffers are borrowed for an exchange.
var (
	requestHeads = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}
	copyBuffers  = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
	heads        = sync.Pool{New: func() any { return &h1.Head{Fields: make([]h1.Field, 0, 24)} }}
)

// maxPooledHead keeps buffers that a huge head has grown out of the pool.
const maxPooledHead = 16 << 10

// Serve forwards the request to its origin and relays the response.
func (t *Exchange) Serve() error {
	if err := t.CheckVia(); err != nil {
		return err
	}
	if n, ok := t.MaxForwards(); ok && n == 0 {
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
	if protocols := asksUpgrade(t.HTTP); protocols != "" {
		tunnel, err := t.Upgrade()
		if err != nil {
			return err
		}
		t.upgrade = &upgrade{protocols: protocols, tunnel: tunnel}
		defer t.endUpgrade()
	}
	if t.Route.To.Group != nil {
		if err := t.checkHead(*buf); err != nil {
			return err
		}
	}
	if !t.BodyRead {
		t.upload = newUpload(t)
		t.Body = t.upload
	}
	// Once: a dial of the first attempt may still run in the second.
	t.Slot = t.SlotOf(t.Route.Direct.Sources)
	t.bound = namesConnectionAuth(t.HTTP.Header["Authorization"])
	t.Proxy.Budget.Begin()
	defer func() {
		t.Retries.End()
		t.Proxy.Budget.End()
	}()
	send := func() (err error) {
		// The head depends on the path, but its first attempt has none before it.
		if *buf, err = t.appendRequestHead((*buf)[:0]); err != nil {
			return err
		}
		return t.attempt(*buf)
	}
	if t.upgrade != nil {
		return t.OverWays(func() error { return t.forwardUpgrade(send) })
	}
	return t.OverWays(send)
}

// attempt runs the exchange on one connection. Whether there is another one is
// for the retry rules to say.
func (t *Exchange) attempt(head []byte) error {
	l, err := t.choose()
	if err != nil {
		return err
	}
	t.conn = l.Conn()
	c := t.conn.Conn
	c.Begin()
	w := watch{ctx: t.HTTP.Context(), conn: c}
	settled := false
	defer func() {
		if !settled { // a writer has panicked
			w.end()
			_ = c.Close()
			c.End()
			l.Discard()
		}
	}()
	resp, err := t.roundTrip(c, head, &w)
	undisturbed := w.end()
	if up := t.upload; up != nil {
		undisturbed = up.settle(err) && undisturbed
		if err != nil {
			up.alone(true)
		}
		t.Outcome.BytesUp = up.sent.Load()
		err = up.blame(err)
	}
	settled = true
	if t.upgrade != nil && t.upgrade.switched && err == nil {
		return t.finishSwitch(l, undisturbed)
	}
	if reusable := c.End(); reusable && undisturbed && err == nil {
		t.giveBack(l, resp)
	} else {
		l.Discard()
	}
	return err
}

// choose gets the connection for an attempt: the one that is pinned to this
// client, or one of the pool. A second attempt is made on a fresh one.
func (t *Exchange) choose() (*origin.Lease, error) {
	first := t.Connects()
	if first && t.Ways.Current.Direct() {
		if err := t.Hold(); err != nil {
			return nil, err // a pinned connection counts as any other
		}
		if l := t.takePinned(); l != nil {
			return l, nil
		}
	}
	return t.Acquire(!first)
}

// giveBack ends an exchange whose connection can carry another one.
func (t *Exchange) giveBack(l *origin.Lease, resp h1.Response) {
	switch {
	case t.CurrentPool().Retired(), t.relaysOn(l.Conn(), resp), t.bound && !t.Ways.Current.Direct(), t.upload.isUnread():
		l.Discard()
	case t.bound:
		t.pin(l, keepFor(resp.KeepAlive))
	default:
		l.Release(keepFor(resp.KeepAlive))
	}
}

// watch closes the connection to the origin when the client goes away. It starts
// when there is something to wait for: most exchanges have nothing.
type watch struct {
	ctx  context.Context
	conn *h1.Conn
	stop func() bool
}

func (w *watch) start() {
	if w.stop == nil {
		c := w.conn
		w.stop = context.AfterFunc(w.ctx, func() { _ = c.Close() })
	}
}

// first is the deadline of a first wait, which ends earlier where the watch has
// yet to start.
func (w *watch) first(deadline time.Time) time.Time {
	if w.stop != nil {
		return deadline
	}
	if soon := time.Now().Add(firstWait); soon.Before(deadline) {
		return soon
	}
	return deadline
}

// end stops the watch. It reports whether the connection was left alone.
func (w *watch) end() (undisturbed bool) { return w.stop == nil || w.stop() }

// keepFor is how long a connection may stay idle whose origin promised to keep
// it for the given time: a second less, to be first. 0 is the pool's own.
func keepFor(promised time.Duration) time.Duration {
	if promised == 0 {
		return 0
	}
	return max(promised-time.Second, time.Millisecond)
}

// roundTrip writes the request, reads the response and relays it.
func (t *Exchange) roundTrip(c *h1.Conn, head []byte, w *watch) (h1.Response, error) {
	if !t.Outcome.Reused {
		if err := c.Silent(); err != nil {
			return h1.Response{}, &retry.StaleError{Err: err} // nothing was written
		}
	}
	up := t.upload
	if up != nil {
		w.start()
	}
	if err := t.writeHead(c, head, w); err != nil {
		return h1.Response{}, err
	}
	hd := heads.Get().(*h1.Head)
	defer heads.Put(hd)
	if err := t.readFinalHead(c, hd, w); err != nil {
		return h1.Response{}, noResponse(c, err)
	}
	t.Outcome.TTFB = time.Since(t.Start)
	t.TraceHead(hd.Status)
	resp, err := c.Frame(hd, t.HTTP.Method)
	if err != nil {
		return resp, err
	}
	if t.Absolute() {
		if err := t.OwnAnswer(hd); err != nil {
			return resp, err
		}
	}
	t.Stands(hd.Status)
	if hd.Status == http.StatusProxyAuthRequired {
		// The client would take it for our own challenge and send its
		// credentials for us to a stranger.
		return resp, &h1.ProtocolError{Reason: "407 from an origin"}
	}
	if up != nil {
		up.finalHead(hd.Status)
	}
	if hd.Status == http.StatusSwitchingProtocols {
		t.prepareSwitch(hd)
		return resp, nil
	}
	t.endUpgrade() // however long the rest of this answer takes
	return resp, t.relay(c, hd, resp, w)
}

// firstWait is how long a response head is waited for before the client is
// watched: a watch costs more than the whole waiting of a quick answer does. A
// client that leaves earlier is noticed then.
const firstWait = 100 * time.Millisecond

// relay sends the client the response: what is at hand leaves with the head in one
// write; before it waits for more, it flushes what there is. As long as neither has
// happened, a body that breaks is no answer yet: the client gets a 502.
//
// The writer is used directly, not by io.Copy: net/http's ReadFrom flushes the
// head on its own and takes a new buffer each time.
func (t *Exchange) relay(c *h1.Conn, hd *h1.Head, resp h1.Response, w *watch) error {
	if c.BodyDone() {
		t.writeResponseHead(hd, resp)
		if t.HTTP.ProtoMajor == 3 {
			t.Flush() // or a Content-Length of 0 would be made up
		}
		return nil
	}
	t.listen(c)
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	if c.Buffered() == 0 {
		t.writeResponseHead(hd, resp)
		t.Flush()
		w.start()
	}
	body := c.Body()
	for {
		n, err := body.Read(*buf)
		if !t.Committed {
			if err != nil && err != io.EOF {
				return err
			}
			t.writeResponseHead(hd, resp)
		}
		if n > 0 {
			t.Outcome.BytesDown += int64(n)
			if _, werr := t.Writer.Write((*buf)[:n]); werr != nil {
				return failure.Canceled.Because(werr)
			}
		}
		switch {
		case err == nil:
			if c.Buffered() == 0 {
				t.Flush()
				w.start()
			}
		case err == io.EOF:
			t.writeTrailer(c, hd)
			return nil
		default:
			return err
		}
	}
}

// Flush sends the client what is there. An error shows at the next write.
func (t *Exchange) Flush() { _ = http.NewResponseController(t.Writer).Flush() }

// answerLastHop answers a TRACE or OPTIONS request whose Max-Forwards is used up
// (RFC 9110 §7.6.2, §9.3.7, §9.3.8).
func (t *Exchange) answerLastHop() error {
	header := t.Writer.Header()
	t.CloseClient()
	if !t.Proxy.HideVia {
		header.Set("Via", t.Proxy.Via.Response[1]) // it has come from no further than here
	}
	t.Committed, t.Outcome.Status = true, http.StatusOK
	if t.HTTP.Method == http.MethodOptions {
		header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE, CONNECT")
		header.Set("Content-Length", "0")
		t.Writer.WriteHeader(http.StatusOK)
		return nil
	}
	header.Set("Content-Type", "message/http")
	t.Writer.WriteHeader(http.StatusOK)
	// Credentials are not reflected (RFC 9110 §9.3.8).
	seen := t.HTTP.Header.Clone()
	for _, name := range []string{"Proxy-Authorization", "Authorization", "Cookie"} {
		seen.Del(name)
	}
	if _, err := io.WriteString(t.Writer, "TRACE "+t.HTTP.RequestURI+" "+t.HTTP.Proto+"\r\nHost: "+t.HTTP.Host+"\r\n"); err != nil {
		return err
	}
	return seen.Write(t.Writer)
}

// peekBody finds out whether an HTTP/3 request has a body where only the end of
// its stream can tell: a GET with an empty body is not the same to every origin
// as a GET without one. Methods that usually bring a body are not looked at, so
// that nothing is held back.
func (t *Exchange) peekBody() error {
	if t.BodyRead || t.HTTP.ProtoMajor < 3 || t.HTTP.ContentLength >= 0 || !retry.Idempotent(t.HTTP.Method) || t.HTTP.Method == http.MethodPut {
		return nil
	}
	first := make([]byte, 512)
	n, err := t.Reader.Read(first)
	switch {
	case n == 0 && err == io.EOF:
		t.BodyRead = true
	case err != nil && err != io.EOF:
		return failure.Request.Because(err)
	default:
		t.Reader = io.MultiReader(bytes.NewReader(first[:n]), t.Reader)
	}
	return nil
}
