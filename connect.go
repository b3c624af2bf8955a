package egress

import (
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/relay"
)

// connect serves CONNECT.
func (t *transaction) connect() error {
	tunnel, err := t.Connect()
	if err != nil {
		return err
	}
	defer tunnel.Close() // unless it was started
	if t.HTTP.ProtoMajor == 1 {
		return t.tunnelConn(&tunnel)
	}
	return t.tunnelStream(&tunnel)
}

// connected is the answer to CONNECT on HTTP/1.1. It has neither Content-Length
// nor Transfer-Encoding (RFC 9110 §9.3.6), which net/http's own writer would
// add.
const connected = "HTTP/1.1 200 Connection established\r\n\r\n"

// tunnelConn makes a tunnel of the client's HTTP/1.1 connection. The handler
// returns when the relay owns both connections: a parked handler would keep
// net/http's buffers and a deep stack alive for as long as the tunnel lives.
// The access-log line that Caddy would write at that moment is written by us
// when the tunnel ends.
func (t *transaction) tunnelConn(tunnel *core.Tunnel) error {
	line := t.tunnelLog() // looks at the chain of writers, so before Hijack
	client, early, err := t.hijack()
	if err != nil {
		tunnel.Abandon()
		return failure.Internal.Because(err)
	}
	_ = client.SetWriteDeadline(time.Now().Add(clientWriteTimeout)) // nobody else would end it
	if _, err := io.WriteString(client, connected); err != nil {
		tunnel.Abandon()
		_ = client.Close()
		t.Outcome.Failure, t.Outcome.Err = failure.Canceled, err
		return nil // gone before the tunnel was up; there is nobody to tell
	}
	if line != nil {
		caddyhttp.SetVar(t.HTTP.Context(), caddyhttp.LogSkipVar, true)
	}
	_ = client.SetWriteDeadline(time.Time{})
	near := relay.StreamOf(layers.Innermost(client))
	if unknown, ok := near.(relay.CloseOnly); ok {
		t.Proxy.SayUnknown(unknown.Conn, "tunnels of such clients have no half-close and no reset: the connection is closed instead")
	}
	tunnel.Start(tunnel.Relay(near, early), func(result relay.Result) {
		if line != nil {
			line.write(result)
		}
	})
	return nil
}

// hijack takes the client's connection over, from the innermost writer: Caddy's
// recorder would hand out a wrapper that hides CloseWrite and the socket. It
// returns what the client has sent already as well.
func (t *transaction) hijack() (net.Conn, []byte, error) {
	// When the handler returns, Caddy would arm a deadline for the rest of a
	// body. It must not hit the tunnel.
	if rd, _ := caddyhttp.IdleTimeoutsFromContext(t.HTTP.Context()); rd != nil {
		rd.HandlerDone()
	}
	hijacker, ok := innermostWriter(t.Writer).(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be taken over: " + reflect.TypeOf(t.Writer).String())
	}
	conn, brw, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, layers.Buffered(brw.Reader), nil
}

// innermostWriter is the server's own writer below all wrappers.
func innermostWriter(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// overrideIdleTimeouts takes Caddy's own idle timeouts off a tunnel, which has
// timers of its own. The returned function puts them back.
func overrideIdleTimeouts(r *http.Request) (restore func()) {
	const never = 100 * 365 * 24 * time.Hour
	restoreRead, restoreWrite := func() {}, func() {}
	rd, wr := caddyhttp.IdleTimeoutsFromContext(r.Context())
	if rd != nil {
		restoreRead = rd.Override(never, 0)
	}
	if wr != nil {
		restoreWrite = wr.Override(never, 0, 0)
	}
	return func() {
		restoreRead()
		restoreWrite()
	}
}
