package egress

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// tunnelStream relays over the HTTP/2 or HTTP/3 stream of a CONNECT request
// (RFC 9113 §8.5, RFC 9114 §4.4). The handler lives as long as the tunnel.
func (t *transaction) tunnelStream(tunnel *core.Tunnel) error {
	defer overrideIdleTimeouts(t.HTTP)()
	keepClientUnsentLow(t.HTTP)
	client := newClientStream(t)
	header := t.Writer.Header()
	delete(header, "Server")
	delete(header, "Alt-Svc")
	t.Committed = true
	t.Writer.WriteHeader(http.StatusOK)
	if conn, ok := t.HTTP.Context().Value(http3.RemoteAddrContextKey).(net.Addr); ok && t.HTTP.ProtoMajor == 3 {
		side, leave := tunnels.OverHTTP3.Join(conn, !t.Ways.Current.Direct())
		defer leave()
		client.side = side
	}
	// Before the answer is out, so that what ends tunnels ends this one too if its
	// client does not take the answer.
	relaying := tunnel.Relay(client, nil)
	client.side.Follows(relaying)
	if err := client.sendHead(); err != nil && !client.over() {
		// The client may have seen the answer: what it resets then is a tunnel.
		tunnel.Break()
		return failure.Canceled.Because(err)
	}
	result := tunnel.Run(relaying)
	if client.aborted || result.Err != nil {
		t.Aborted = true
		panic(http.ErrAbortHandler) // resets the stream
	}
	return nil
}

// clientUnsent is how many bytes for a client on HTTP/2 may wait in its socket to be sent
// for the first time: with more, a client that takes bytes all the time, but few, would seem
// to take none (see clientWriteTimeout).
const clientUnsent = 64 << 10

func keepClientUnsentLow(r *http.Request) {
	if conn := origin.ClientOf(r.Context()); conn != nil && r.ProtoMajor == 2 {
		layers.KeepUnsentLow(relay.StreamOf(layers.Innermost(conn)), clientUnsent)
	}
}

// clientStream is the client's side of a tunnel over HTTP/2 or HTTP/3.
type clientStream struct {
	r       *http.Request
	body    io.Reader
	w       http.ResponseWriter
	rc      *http.ResponseController
	side    *tunnels.Side // nil unless on HTTP/3
	aborted bool

	mu      sync.Mutex
	closed  bool
	writing bool
}

func newClientStream(t *transaction) *clientStream {
	return &clientStream{r: t.HTTP, body: exchange.WholeBody(t.HTTP), w: t.Writer, rc: http.NewResponseController(t.Writer)}
}

// sendHead sends the head of the answer. A client that does not take it in time is
// given up.
func (s *clientStream) sendHead() error {
	if !s.beginWrite() {
		return net.ErrClosed
	}
	defer s.endWrite()
	timer := time.AfterFunc(clientWriteTimeout, func() { _ = s.Close() })
	defer timer.Stop()
	return s.rc.Flush()
}

// over reports whether the stream was closed by us.
func (s *clientStream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *clientStream) Read(p []byte) (int, error) {
	if s.side == nil {
		return s.body.Read(p)
	}
	s.side.Reading()
	n, err := s.body.Read(p)
	s.side.Got(err)
	return n, err
}

// Write sends p at once: bytes of a tunnel are not ours to hold back.
func (s *clientStream) Write(p []byte) (int, error) {
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
func (s *clientStream) beginWrite() (open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = !s.closed
	return s.writing
}

func (s *clientStream) endWrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
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
	again := s.closed
	s.closed = true
	stuck := s.writing
	s.mu.Unlock()
	err := s.rc.SetReadDeadline(exchange.LongAgo)
	if stuck {
		err = errors.Join(err, http.NewResponseController(innermostWriter(s.w)).SetWriteDeadline(exchange.LongAgo))
		if !again {
			s.watchStuck()
		}
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

// stuckTime is for how long nothing may move.
const stuckTime = 5 * time.Second

// stuckWrite is a write to a client that should have ended.
type stuckWrite struct {
	stream *clientStream
	conn   relay.Stream
	acked  uint64 // what the client's system had at the last look
}

// watchStuck sees to it that the write that is under way ends.
func (s *clientStream) watchStuck() {
	conn := origin.ClientOf(s.r.Context())
	if conn == nil || s.r.ProtoMajor != 2 {
		return
	}
	w := &stuckWrite{stream: s, conn: relay.StreamOf(layers.Innermost(conn))}
	w.acked, _ = layers.Acked(w.conn)
	time.AfterFunc(stuckTime, w.look)
}

func (w *stuckWrite) look() {
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	if !w.stream.writing {
		return
	}
	if acked, ok := layers.Acked(w.conn); ok && acked != w.acked {
		w.acked = acked
		time.AfterFunc(stuckTime, w.look)
		return
	}
	layers.Abort(w.conn)
}
