package egress

import (
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/clientend"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/relay"
)

// connect serves CONNECT.
func (in *incoming) connect() error {
	if in.User != "" {
		in.Login = in.h.Auth.users.Stored(in.User)
	}
	growStack()
	server := http.NewResponseController(clientend.InnermostWriter(in.Writer))
	// Those of the server for a request (Caddy's read_body and write): a tunnel has
	// limits of its own.
	_ = server.SetReadDeadline(time.Time{})
	_ = server.SetWriteDeadline(time.Time{})
	tunnel, err := in.Connect()
	if err != nil {
		_ = server.SetWriteDeadline(time.Now().Add(clientend.WriteTimeout))
		return err
	}
	defer tunnel.Close() // unless it was started
	if in.HTTP.ProtoMajor == 1 {
		return in.tunnelConn(&tunnel, http.StatusOK, []byte(connected))
	}
	return in.tunnelStream(&tunnel)
}

// growStack has the goroutine's stack grow to what opening a tunnel takes. A stack that grows
// is copied, frame by frame: that of a new connection would grow where the destination is
// dialed, a dozen frames further down, at several times the cost.
//
//go:noinline
func growStack() {
	var room [4 << 10]byte
	runtime.KeepAlive(&room)
}

// connected is the answer to CONNECT on HTTP/1.1. It has neither Content-Length
// nor Transfer-Encoding (RFC 9110 §9.3.6), which net/http's own writer would
// add.
const connected = "HTTP/1.1 200 Connection established\r\n\r\n"

// switchProtocols makes a tunnel of an exchange that the origin has answered with a 101.
func (in *incoming) switchProtocols(tunnel *core.Tunnel) error {
	defer tunnel.Close() // unless it was started
	if in.User != "" {
		in.Login = in.h.Auth.users.Stored(in.User)
	}
	return in.tunnelConn(tunnel, http.StatusSwitchingProtocols, in.SwitchHead())
}

// tunnelConn makes a tunnel of the client's HTTP/1.1 connection, which is told so with
// the given status and head. The handler
// returns when the relay owns both connections: a parked handler would keep
// net/http's buffers and a deep stack alive for as long as the tunnel lives.
// The access-log line that Caddy would write at that moment is written by us
// when the tunnel ends.
func (in *incoming) tunnelConn(tunnel *core.Tunnel, status uint16, head []byte) error {
	line := in.tunnelLog(status) // looks at the chain of writers, so before Hijack
	client, early, err := in.hijack()
	if err != nil {
		tunnel.Abandon()
		return failure.Internal.Because(err)
	}
	_ = client.SetWriteDeadline(time.Now().Add(clientend.WriteTimeout)) // nobody else would end it
	if _, err := client.Write(head); err != nil {
		tunnel.Abandon()
		_ = client.Close()
		in.Outcome.Failure, in.Outcome.Err = failure.Canceled, err
		return nil // gone before the tunnel was up; there is nobody to tell
	}
	if line != nil {
		caddyhttp.SetVar(in.HTTP.Context(), caddyhttp.LogSkipVar, true)
	}
	_ = client.SetWriteDeadline(time.Time{})
	in.Outcome.Status = status
	near := relay.StreamOf(layers.Innermost(client))
	if unknown, ok := near.(relay.CloseOnly); ok {
		in.Proxy.SayUnknown(unknown.Conn, "tunnels of such clients have no half-close and no reset: the connection is closed instead")
	}
	var done func(relay.Result)
	if line != nil {
		done = line.write
	}
	tunnel.Start(tunnel.Relay(near, early), done)
	return nil
}

// hijack takes the client's connection over, and returns what the client has sent already
// as well.
func (in *incoming) hijack() (net.Conn, []byte, error) {
	// When the handler returns, Caddy would arm a deadline for the rest of a
	// body. It must not hit the tunnel.
	if rd, _ := caddyhttp.IdleTimeoutsFromContext(in.HTTP.Context()); rd != nil {
		rd.HandlerDone()
	}
	return clientend.Hijack(in.Writer)
}

// tunnelStream relays over the HTTP/2 or HTTP/3 stream of a CONNECT request
// (RFC 9113 §8.5, RFC 9114 §4.4). The handler lives as long as the tunnel.
func (in *incoming) tunnelStream(tunnel *core.Tunnel) error {
	defer caddyserver.OverrideIdleTimeouts(in.HTTP)()
	clientend.KeepUnsentLow(in.HTTP)
	client := newClientStream(in.Writer, in.HTTP)
	header := in.Writer.Header()
	delete(header, "Server")
	delete(header, "Alt-Svc")
	in.Committed, in.Outcome.Status = true, http.StatusOK
	in.Writer.WriteHeader(http.StatusOK)
	defer client.Join(!in.Ways.Current.Direct())()
	// Before the answer is out, so that what ends tunnels ends this one too if its
	// client does not take the answer.
	relaying := tunnel.Relay(client, nil)
	client.Follows(relaying)
	if err := client.SendHead(); err != nil && !client.Closed() {
		// The client may have seen the answer: what it resets then is a tunnel.
		tunnel.Break()
		return failure.Canceled.Because(err)
	}
	unwatched := client.WatchReset(relaying)
	result := tunnel.Run(relaying)
	unwatched()
	broken := client.Aborted() || result.Err != nil
	client.End(broken)
	if broken {
		in.Aborted = true
		in.logBroken()
		panic(http.ErrAbortHandler) // resets the stream
	}
	return nil
}

// newClientStream is the stream of a request, past the idle timeouts of Caddy.
func newClientStream(w http.ResponseWriter, r *http.Request) *clientend.Stream {
	if rd, _ := caddyhttp.IdleTimeoutsFromContext(r.Context()); rd != nil {
		return clientend.NewStream(w, r, rd)
	}
	return clientend.NewStream(w, r, nil)
}
