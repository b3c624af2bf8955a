package proxydial

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
)

// dialHTTP1 asks for a tunnel with HTTP/1.1, on a connection of its own.
func (d *Dialer) dialHTTP1(ctx context.Context, req request, client Client) (*Tunnel, error) {
	return d.talk(ctx, d.tlsH1, client, StageReply, func(conn net.Conn) (*Tunnel, error) {
		return d.connect(ctx, conn, req)
	})
}

// talk makes a tunnel of a connection to the proxy: of one that waits, if there is
// one, else of a new one. The proxy's first byte is expected in the stage first.
func (d *Dialer) talk(ctx context.Context, tlsConfig *tls.Config, client Client, first Stage, ask func(net.Conn) (*Tunnel, error)) (*Tunnel, error) {
	if conn, since := d.standby.take(0); conn != nil {
		t, err := ask(conn)
		if err == nil {
			t.Reused = true
			return t, nil
		}
		if !isStale(err, first) {
			if e, ok := errors.AsType[*Error](err); ok && e.Stage == first && e.Timeout() {
				// Perhaps it was lost without a trace, and with it all that have
				// stood for as long.
				d.standby.dropBefore(since)
			}
			return nil, err
		}
		// It died while it waited, unseen. That says nothing about the proxy.
	}
	conn, err := d.open(ctx, tlsConfig, client)
	if err != nil {
		return nil, err
	}
	return ask(conn)
}

// isStale reports whether a connection that had waited turned out to be dead
// before it brought its first byte.
func isStale(err error, first Stage) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Stage != first {
		return false
	}
	return e.Err == io.EOF || errors.Is(e.Err, syscall.ECONNRESET) || errors.Is(e.Err, syscall.EPIPE)
}

// connect sends a CONNECT and reads the answer. It owns conn until it returns a
// Tunnel.
func (d *Dialer) connect(ctx context.Context, conn net.Conn, req request) (*Tunnel, error) {
	ctx, cancel := d.replyContext(ctx)
	defer cancel()
	g := watch(ctx, conn)
	t, err := d.exchange(conn, req)
	if err = g.done(err); err == nil {
		return t, nil
	}
	_ = layers.Close(conn)
	e := &Error{Stage: StageReply, Err: err, Sent: true}
	if r, ok := errors.AsType[*ReplyError](err); ok {
		e.Stage = r.stage()
	}
	return nil, e
}

// heads lends the fields of an answer's head.
var heads = sync.Pool{New: func() any { return new(h1.Head) }}

func (d *Dialer) exchange(conn net.Conn, req request) (*Tunnel, error) {
	hc := h1.NewConn(conn)
	hc.Begin()
	defer hc.End()
	if _, err := hc.Write(d.connectRequest(req)); err != nil {
		return nil, fmt.Errorf("write CONNECT: %w", err)
	}
	head := heads.Get().(*h1.Head)
	defer heads.Put(head)
	if err := d.readFinal(hc, head); err != nil {
		return nil, err
	}
	reply := ReplyOf(head)
	if head.Status > 299 {
		return nil, &ReplyError{reply}
	}
	// Whatever Content-Length or Transfer-Encoding say, a 2xx has no content
	// (RFC 9110 §9.3.6): what follows belongs to the tunnel.
	return &Tunnel{Conn: asTunnel(conn), Early: hc.Rest(), Reply: reply, Protocol: "http/1.1"}, nil
}

// readFinal reads the final head, past informational ones, in MaxReplyHead bytes and
// ReplyTimeout for all.
func (d *Dialer) readFinal(hc *h1.Conn, head *h1.Head) error {
	for {
		if err := hc.ReadHead(head, d.cfg.MaxReplyHead); err != nil {
			return headError(err)
		}
		switch {
		case head.Status == 101:
			return malformed("101 without an Upgrade")
		case head.Status >= 200:
			return nil
		}
	}
}

// headError says in this package's terms why there was no head.
func headError(err error) error {
	if pe, ok := errors.AsType[*h1.ProtocolError](err); ok {
		return &MalformedError{pe.Reason, pe.TooLarge}
	}
	if errors.Is(err, h1.ErrClosedBeforeResponse) {
		return io.EOF
	}
	return err
}

// ReplyOf is what a head says about who made the answer.
func ReplyOf(head *h1.Head) Reply {
	r := Reply{Status: head.Status}
	r.take(head.Fields)
	chunked := slices.ContainsFunc(head.Fields, func(f h1.Field) bool { return f.Name == "Transfer-Encoding" })
	r.BodyLess = r.BodyLess && !chunked || r.Status == 204 || r.Status == 304
	return r
}

// connectRequest is a CONNECT for HTTP/1.1. Host is the authority (RFC 9110
// §9.3.6, RFC 9112 §3.2.3).
func (d *Dialer) connectRequest(req request) []byte {
	size := 2*len(req.authority) + len(d.extra) + 64
	for _, f := range req.header {
		size += len(f.Name) + len(f.Value) + 4
	}
	b := make([]byte, 0, size)
	b = append(b, "CONNECT "...)
	b = append(b, req.authority...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = h1.AppendField(b, "Host", req.authority)
	b = append(b, d.extra...)
	for _, f := range req.header {
		b = h1.AppendField(b, f.Name, f.Value)
	}
	return append(b, '\r', '\n')
}

// connectFields are the fields that are the same in every CONNECT, as HTTP/1.1
// has them.
func (c *Config) connectFields() (b []byte) {
	for _, f := range c.fields() {
		b = h1.AppendField(b, f.Name, f.Value)
	}
	return b
}

// fields are the configured ones, and the credentials.
func (c *Config) fields() []h1.Field {
	var fields []h1.Field
	if c.Authenticate {
		credentials := base64.StdEncoding.EncodeToString([]byte(c.User + ":" + c.Password))
		fields = append(fields, h1.Field{Name: "Proxy-Authorization", Value: "Basic " + credentials})
	}
	for _, f := range c.Header {
		fields = append(fields, h1.Field{Name: f.Name, Value: strings.Trim(f.Value, " \t")})
	}
	return fields
}
