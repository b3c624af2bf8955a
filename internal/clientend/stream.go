package clientend

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// Stream is the client's side of a tunnel over HTTP/2 or HTTP/3. The handler of the request
// lives as long as the tunnel.
type Stream struct {
	r       *http.Request
	w       http.ResponseWriter
	rc      *http.ResponseController
	h3      *http3.Stream // taken over when the head is out; nil unless on HTTP/3
	side    *tunnels.Side // nil unless on HTTP/3
	aborted bool
	ended   atomic.Bool // we have ended our direction: with that, the context of the request is over

	reading sync.Mutex
	body    io.Reader // guarded by reading

	mu      sync.Mutex
	closed  bool
	writing bool
}

// NewStream is the stream of a CONNECT request. below is the reader of its body that is not
// in the way of tunnels, nil where there is none (see exchange.TunnelBody).
func NewStream(w http.ResponseWriter, r *http.Request, below io.Reader) *Stream {
	return &Stream{r: r, body: exchange.TunnelBody(r, below), w: w, rc: http.NewResponseController(w)}
}

// Join lists the tunnel with the others of an HTTP/3 connection, which share what its client
// may send ahead, until leave is called. throughUpstream says that the destination is behind
// an upstream.
func (s *Stream) Join(throughUpstream bool) (leave func()) {
	conn, ok := s.r.Context().Value(http3.RemoteAddrContextKey).(net.Addr)
	if !ok || s.r.ProtoMajor != 3 {
		return func() {}
	}
	s.side, leave = tunnels.OverHTTP3.Join(conn, throughUpstream)
	return leave
}

// Follows names the relay of the tunnel.
func (s *Stream) Follows(r *relay.Relay) { s.side.Follows(r) }

// SendHead sends the head of the answer. A client that does not take it in time is
// given up.
func (s *Stream) SendHead() error {
	if !s.beginWrite() {
		return net.ErrClosed
	}
	defer s.endWrite()
	timer := time.AfterFunc(WriteTimeout, func() { _ = s.Close() })
	defer timer.Stop()
	err := s.rc.Flush()
	if streamer, ok := InnermostWriter(s.w).(http3.HTTPStreamer); ok && err == nil {
		s.h3 = streamer.HTTPStream()
	}
	return err
}

// Closed reports whether the stream was closed by us.
func (s *Stream) Closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Read reads what the client sends.
func (s *Stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.side == nil {
		return s.body.Read(p)
	}
	s.side.Reading()
	n, err := s.body.Read(p)
	s.side.Got(err)
	return n, err
}

// Write sends p at once: bytes of a tunnel are not ours to hold back.
func (s *Stream) Write(p []byte) (int, error) {
	if !s.beginWrite() {
		return 0, net.ErrClosed
	}
	defer s.endWrite()
	n, err := s.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, s.rc.Flush()
}

// beginWrite notes that a write is under way, if the stream is open.
func (s *Stream) beginWrite() (open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = !s.closed
	return s.writing
}

func (s *Stream) endWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
}

// CloseWrite ends our direction of a stream of HTTP/3. On HTTP/2 it does nothing: net/http
// ends a stream only when the handler returns, which would end the client's own direction as
// well. There the stream ends when the client has ended too, or when the half-close timer
// fires.
func (s *Stream) CloseWrite() error {
	if s.h3 == nil || !s.beginWrite() {
		return nil
	}
	defer s.endWrite()
	s.ended.Store(true)
	return s.h3.Close()
}

// End ends the stream when the relay has ended, before the handler returns: a stream of
// HTTP/3 that was taken over is not ended by the server. broken says that the client must
// see that something was cut (RFC 9114 §4.4). Where our direction has ended it was not that:
// a reset would take from the client what it has yet to read of it.
func (s *Stream) End(broken bool) {
	if s.h3 == nil {
		return
	}
	if broken {
		if !s.ended.Load() {
			s.h3.CancelWrite(quic.StreamErrorCode(http3.ErrCodeConnectError))
		}
		s.h3.CancelRead(quic.StreamErrorCode(http3.ErrCodeConnectError))
		return
	}
	_ = s.h3.Close() // which must not be called beside a write: the relay's have ended
	s.h3.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
}

// SetReadDeadline makes reads end at that time.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.rc.SetReadDeadline(t) }

// Close unblocks reads and writes. The stream itself ends with the handler.
//
// A write deadline that has passed resets an HTTP/2 stream, so there is one only
// where a write is stuck: those bytes are lost anyway. It is set on the server's
// own writer, since Caddy's may be in use by that write.
func (s *Stream) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	stuck := s.writing
	s.mu.Unlock()
	err := s.rc.SetReadDeadline(exchange.LongAgo)
	if stuck {
		err = errors.Join(err, http.NewResponseController(InnermostWriter(s.w)).SetWriteDeadline(exchange.LongAgo))
		if !again {
			s.watchStuck()
		}
	}
	return err
}

// Aborted reports whether the client must see a reset stream. It is asked when the relay has
// ended.
func (s *Stream) Aborted() bool { return s.aborted }

// Abort is Close, but the client must see a reset stream.
func (s *Stream) Abort() {
	s.aborted = true
	_ = s.Close()
}

// Interface guards
var (
	_ relay.Stream  = (*Stream)(nil)
	_ relay.Aborter = (*Stream)(nil)
)
