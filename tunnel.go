package egress

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/pires/go-proxyproto"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// connect serves CONNECT: it connects to the destination first, and only then
// tells the client that the tunnel is up (RFC 9110 §9.3.6).
func (t *transaction) connect() error {
	if err := t.CheckVia(); err != nil {
		return err
	}
	lines := 0
	for _, values := range t.HTTP.Header {
		lines += len(values)
	}
	if lines > h1.MaxFields {
		return failure.Fields.Because(fmt.Errorf("over %d", h1.MaxFields))
	}
	slot, err := t.TakeSlot()
	if err != nil {
		return err
	}
	defer slot.Release() // unless it was moved
	far, err := t.OpenTunnel(&slot)
	if err != nil {
		return err
	}
	if t.HTTP.ProtoMajor == 1 {
		return t.tunnelConn(far, &slot)
	}
	return t.tunnelStream(far, &slot)
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
func (t *transaction) tunnelConn(far core.FarEnd, slot *tunnels.Slot) error {
	origin := far.Conn
	line := t.tunnelLog() // looks at the chain of writers, so before Hijack
	client, early, err := t.hijack()
	if err != nil {
		_ = origin.Close()
		return failure.Internal.Because(err)
	}
	if _, err := io.WriteString(client, connected); err != nil {
		_ = origin.Close()
		_ = client.Close()
		t.Outcome.Failure, t.Outcome.Err = failure.Canceled, err
		return nil // gone before the tunnel was up; there is nobody to tell
	}
	cfg := t.RelayConfig(slot)
	cfg.EarlyUp, cfg.EarlyDown = early, far.Early
	if line != nil {
		caddyhttp.SetVar(t.HTTP.Context(), caddyhttp.LogSkipVar, true)
	}
	near := asStream(innermostConn(client))
	if unknown, ok := near.(closeOnly); ok {
		t.Proxy.SayUnknown(unknown.Conn, "tunnels of such clients have no half-close and no reset: the connection is closed instead")
	}
	tunnel := relay.New(near, asStream(origin), cfg)
	slot.Follow(tunnel, t.Target, t.Outcome.Remote, time.Duration(*t.h.tunnel.CloseDelay))
	moved := slot.Move()
	tunnel.Start(func(result relay.Result) {
		moved.ReleaseAround(func() {
			if line != nil {
				line.write(result)
			}
		})
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
	return conn, buffered(brw.Reader), nil
}

// buffered copies what a reader holds, so that the reader can go.
func buffered(r *bufio.Reader) []byte {
	n := r.Buffered()
	if n == 0 {
		return nil
	}
	early := make([]byte, n)
	_, _ = io.ReadFull(r, early) // they are there
	return early
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

// innermostConn reaches the TCP connection through the wrappers that we know, so
// that the kernel can move the bytes of a tunnel. They do nothing more once the
// first request has been read: the one around `protocols h1` watches for an
// HTTP/2 preface, the PROXY protocol's takes away a header. Any other connection
// is left as it is, and its bytes are copied.
func innermostConn(c net.Conn) net.Conn {
	for {
		inner := unwrapConn(c)
		if inner == nil {
			return c
		}
		c = inner
	}
}

// caddyHTTPPackage is where Caddy's own wrapper is defined.
var caddyHTTPPackage = reflect.TypeFor[caddyhttp.Server]().PkgPath()

func unwrapConn(c net.Conn) net.Conn {
	if pp, ok := c.(*proxyproto.Conn); ok {
		return pp.Raw() // TCP or a unix socket
	}
	// caddyhttp's type is not exported, but the net.Conn that it embeds is.
	v := reflect.ValueOf(c)
	if v.Kind() != reflect.Pointer || v.Elem().Type().Name() != "http2Conn" || v.Elem().Type().PkgPath() != caddyHTTPPackage {
		return nil
	}
	field := v.Elem().FieldByName("Conn")
	if !field.IsValid() {
		return nil
	}
	inner, _ := field.Interface().(net.Conn)
	return inner
}

// asStream makes a connection a side of a tunnel. One that cannot half-close
// ends both directions instead, when its peer's side has ended.
func asStream(c net.Conn) relay.Stream {
	switch s := c.(type) {
	case *tls.Conn:
		return tlsStream{s}
	case relay.Stream:
		return s
	}
	return closeOnly{c}
}

// tlsStream is a TLS connection. It leads a relay to the socket, also where that is
// wrapped.
type tlsStream struct{ *tls.Conn }

// NetConn returns what TLS runs on, without its wrappers.
func (s tlsStream) NetConn() net.Conn { return innermostConn(s.Conn.NetConn()) }

// closeOnly is a connection of a type that is not known: of a listener wrapper that
// hides what it wraps.
type closeOnly struct{ net.Conn }

func (c closeOnly) CloseWrite() error { return c.Close() }

// NetConn returns the connection, which may be one that can be reset.
func (c closeOnly) NetConn() net.Conn { return c.Conn }

// Interface guards
var (
	_ relay.Stream = (*net.TCPConn)(nil)
	_ relay.Stream = (*net.UnixConn)(nil)
	_ relay.Stream = tlsStream{}
)
