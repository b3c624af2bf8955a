package egress

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// tunnelStream relays over the HTTP/2 or HTTP/3 stream of a CONNECT request
// (RFC 9113 §8.5, RFC 9114 §4.4). The handler lives as long as the tunnel.
func (t *transaction) tunnelStream(far core.FarEnd, slot *tunnels.Slot) error {
	origin := far.Conn
	defer overrideIdleTimeouts(t.HTTP)()
	client := newClientStream(t)
	header := t.Writer.Header()
	delete(header, "Server")
	delete(header, "Alt-Svc")
	t.Committed = true
	t.Writer.WriteHeader(http.StatusOK)
	if err := client.rc.Flush(); err != nil {
		// The client may have seen the answer: what it resets then is a tunnel.
		relay.Reset(asStream(origin))
		return failure.Canceled.Because(err)
	}
	cfg := t.RelayConfig(slot)
	cfg.EarlyDown = far.Early
	side, leave := quicTunnels.join(t)
	defer leave()
	client.side = side
	tunnel := relay.New(client, asStream(origin), cfg)
	side.follows(tunnel)
	slot.Follow(tunnel, t.Target, t.Outcome.Remote, time.Duration(*t.h.tunnel.CloseDelay))
	result := tunnel.Run()
	t.Outcome.Account(result, t.Start)
	if client.aborted || result.Err != nil {
		t.Aborted = true
		panic(http.ErrAbortHandler) // resets the stream
	}
	return nil
}

// clientStream is the client's side of a tunnel over HTTP/2 or HTTP/3.
type clientStream struct {
	r       *http.Request
	w       http.ResponseWriter
	rc      *http.ResponseController
	side    *sharedSide // nil unless on HTTP/3
	aborted bool

	mu      sync.Mutex
	closed  bool
	writing bool
}

func newClientStream(t *transaction) *clientStream {
	return &clientStream{r: t.HTTP, w: t.Writer, rc: http.NewResponseController(t.Writer)}
}

func (s *clientStream) Read(p []byte) (int, error) {
	if s.side == nil {
		return s.r.Body.Read(p)
	}
	s.side.reading()
	n, err := s.r.Body.Read(p)
	s.side.got(err)
	return n, err
}

// Write sends p at once: bytes of a tunnel are not ours to hold back.
func (s *clientStream) Write(p []byte) (int, error) {
	if !s.setWriting(true) {
		return 0, net.ErrClosed
	}
	defer s.setWriting(false)
	n, err := s.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, s.rc.Flush()
}

// setWriting notes whether a write is under way, and reports whether the stream
// is open.
func (s *clientStream) setWriting(writing bool) (open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = writing
	return !s.closed
}

// CloseWrite does nothing: net/http ends a stream only when the handler returns,
// which would end the client's own direction as well. The stream ends when the
// client has ended too, or when the half-close timer fires.
func (s *clientStream) CloseWrite() error { return nil }

// SetReadDeadline makes reads end at that time.
func (s *clientStream) SetReadDeadline(t time.Time) error { return s.rc.SetReadDeadline(t) }

// Close unblocks reads and writes. The stream itself ends with the handler.
//
// A write deadline that has passed resets an HTTP/2 stream, so there is one only
// where a write is stuck: those bytes are lost anyway. It is set on the server's
// own writer, since Caddy's may be in use by that write.
func (s *clientStream) Close() error {
	s.mu.Lock()
	s.closed = true
	stuck := s.writing
	s.mu.Unlock()
	err := s.rc.SetReadDeadline(exchange.LongAgo)
	if stuck {
		err = errors.Join(err, http.NewResponseController(innermostWriter(s.w)).SetWriteDeadline(exchange.LongAgo))
	}
	return err
}

// Abort is Close, but the client must see a reset stream.
func (s *clientStream) Abort() {
	s.aborted = true
	_ = s.Close()
}

// Interface guards
var (
	_ relay.Stream  = (*clientStream)(nil)
	_ relay.Aborter = (*clientStream)(nil)
)
