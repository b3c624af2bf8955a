package proxydial

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/timing"
)

// LongAgo is a deadline in the past.
var longAgo = time.Unix(1, 0)

// open makes a new connection to the proxy: dialed, introduced by the PROXY
// protocol, and with TLS where cfg is not nil.
func (d *Dialer) open(ctx context.Context, cfg *tls.Config, client Client) (net.Conn, error) {
	if ctx.Err() != nil {
		return nil, &Error{Stage: StageDial, Err: ctx.Err()}
	}
	conn, err := d.cfg.Dial(ctx)
	if err != nil {
		return nil, &Error{Stage: StageDial, Err: preferCtx(ctx, err)}
	}
	if d.cfg.ProxyProtocol != 0 {
		if err := d.introduce(ctx, conn, client); err != nil {
			_ = conn.Close()
			return nil, &Error{Stage: StageProxyProtocol, Err: err}
		}
	}
	if cfg == nil {
		return conn, nil
	}
	secured, err := d.handshake(ctx, conn, cfg)
	if err != nil {
		_ = conn.Close()
		return nil, &Error{Stage: StageTLS, Err: err}
	}
	return secured, nil
}

func (d *Dialer) handshake(ctx context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error) {
	handshakeCtx, cancel := context.WithTimeout(ctx, d.cfg.TLSTimeout)
	defer cancel()
	if d.cfg.Sessions != nil {
		cfg = cfg.Clone()
		cfg.ClientSessionCache = d.cfg.Sessions(ctx, cfg.ClientSessionCache)
	}
	// An exchange must see a body that was cut off, and whether the connection is
	// still alive, whatever the connection is made of.
	tc := tls.Client(h1.NoteEOF(conn), cfg)
	began := time.Now()
	err := tc.HandshakeContext(handshakeCtx)
	timing.Of(ctx).Since(timing.TLS, began, err == nil)
	if err != nil {
		return nil, preferCtx(handshakeCtx, err)
	}
	return tc, nil
}

// introduce writes the PROXY protocol header.
func (d *Dialer) introduce(ctx context.Context, conn net.Conn, client Client) error {
	header, err := proxyHeader(d.cfg.ProxyProtocol, client).Format()
	if err != nil {
		return err
	}
	g := watch(ctx, conn)
	_, err = conn.Write(header)
	return g.done(err)
}

// proxyHeader names the client, or says LOCAL (version 1: UNKNOWN) where there is
// none.
func proxyHeader(version int, client Client) *proxyproto.Header {
	src, dst := unmap(client.Source), unmap(client.Destination)
	if !src.IsValid() {
		return &proxyproto.Header{
			Version: byte(version), Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC,
		}
	}
	if !dst.IsValid() {
		unspecified := netip.IPv6Unspecified()
		if src.Addr().Is4() {
			unspecified = netip.IPv4Unspecified()
		}
		dst = netip.AddrPortFrom(unspecified, 0)
	}
	return proxyproto.HeaderProxyFromAddrs(byte(version), net.TCPAddrFromAddrPort(src), net.TCPAddrFromAddrPort(dst))
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// guard interrupts what is done on a connection when a context ends.
type guard struct {
	ctx  context.Context
	conn net.Conn
	stop func() bool
}

func watch(ctx context.Context, conn net.Conn) guard {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })
	return guard{ctx, conn, stop}
}

// done ends the watch. Where the context has ended, that is the error, also
// where all went well: the deadline may hit the connection at any time.
func (g guard) done(err error) error {
	if !g.stop() {
		return g.ctx.Err()
	}
	return err
}

// preferCtx returns the error of the context in place of what its end has led
// to.
func preferCtx(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || isTimeout(err)) {
		return ctxErr
	}
	return err
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// replyContext bounds the wait for an answer.
func (d *Dialer) replyContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.cfg.ReplyTimeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d.cfg.ReplyTimeout)
}

// tlsTunnel is a tunnel over TLS. It can be reset, which TLS itself cannot.
type tlsTunnel struct{ *tls.Conn }

// asTunnel gives a connection that carries a tunnel what its type lacks.
func asTunnel(c net.Conn) net.Conn {
	if t, ok := c.(*tls.Conn); ok {
		return tlsTunnel{t}
	}
	return c
}

// Abort closes the connection below without the closure alert that would make a
// cut look like an end, and over TCP with a reset.
func (t tlsTunnel) Abort() { layers.Abort(t.Conn) }
