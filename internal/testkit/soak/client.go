//lint:file-ignore SA1019 net/http offers no HTTP/2 connection on which requests for http go over TLS

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http2"
)

// client speaks to a proxy in one protocol.
type client struct {
	kind string
	addr string // of the proxy, or of the link in front of it
	tls  *tls.Config

	rt   http.RoundTripper
	idle func() // closes idle connections
}

func newClient(kind, addr string, roots *x509.CertPool) *client {
	c := &client{kind: kind, addr: addr, tls: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}}
	if kind == "h2" {
		c.tls.NextProtos = []string{http2.NextProtoTLS}
		t := &http2.Transport{
			AllowHTTP:          true,
			DisableCompression: true,
			IdleConnTimeout:    5 * time.Second,
			ReadIdleTimeout:    2 * time.Second,
			PingTimeout:        10 * time.Second,
			DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
				return c.dial(ctx)
			},
		}
		c.rt, c.idle = t, t.CloseIdleConnections
		return c
	}
	u := &url.URL{Scheme: "http", Host: addr}
	if kind == "h1tls" {
		u.Scheme = "https"
	}
	t := &http.Transport{
		Proxy:               http.ProxyURL(u),
		TLSClientConfig:     c.tls,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     time.Second,
	}
	c.rt, c.idle = t, t.CloseIdleConnections
	return c
}

// dial connects to the proxy, within TLS where the kind wants that.
func (c *client) dial(ctx context.Context) (net.Conn, error) {
	if c.kind == "h1" {
		return new(net.Dialer).DialContext(ctx, "tcp", c.addr)
	}
	return (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", c.addr)
}

// tunnelConn is the client's end of a tunnel.
type tunnelConn interface {
	net.Conn
	CloseWrite() error
}

// refused is an answer to CONNECT that is no tunnel.
type refused struct{ resp *http.Response }

func (e *refused) Error() string { return "CONNECT: " + e.resp.Status }

// connect opens a tunnel that ends with ctx.
func (c *client) connect(ctx context.Context, target string) (tunnelConn, error) {
	if c.kind == "h2" {
		return c.connectH2(ctx, target)
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	br := bufio.NewReader(conn)
	if _, err = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target); err != nil {
		conn.Close()
		return nil, err
	}
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect}) //nolint:bodyclose // the answer to CONNECT has none
	if err != nil {
		conn.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		conn.Close()
		return nil, &refused{resp}
	}
	return &h1Tunnel{Conn: conn, br: br}, nil
}

// h1Tunnel is a connection whose first bytes may have been read already.
type h1Tunnel struct {
	net.Conn
	br *bufio.Reader
}

func (t *h1Tunnel) Read(p []byte) (int, error) { return t.br.Read(p) }
func (t *h1Tunnel) CloseWrite() error          { return t.Conn.(interface{ CloseWrite() error }).CloseWrite() }

func (c *client) connectH2(ctx context.Context, target string) (tunnelConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	r := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "https", Host: target},
		Host:   target,
		Header: make(http.Header),
		Body:   pr,
	}
	resp, err := c.rt.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		cancel()
		return nil, &refused{resp}
	}
	return &h2Tunnel{w: pw, body: resp.Body, cancel: cancel}, nil
}

// h2Tunnel is one stream. Its deadline is that of the context it began with.
type h2Tunnel struct {
	net.Conn // nil: there is none of its own
	w        *io.PipeWriter
	body     io.ReadCloser
	cancel   func()
}

func (t *h2Tunnel) Read(p []byte) (int, error)  { return t.body.Read(p) }
func (t *h2Tunnel) Write(p []byte) (int, error) { return t.w.Write(p) }
func (t *h2Tunnel) CloseWrite() error           { return t.w.Close() }

func (t *h2Tunnel) Close() error {
	defer t.cancel()
	return errors.Join(t.w.Close(), t.body.Close())
}

func (t *h2Tunnel) SetDeadline(time.Time) error      { return nil }
func (t *h2Tunnel) SetReadDeadline(time.Time) error  { return nil }
func (t *h2Tunnel) SetWriteDeadline(time.Time) error { return nil }
