package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/caddy-egress/egress/internal/pattern"
)

// tunnel opens a tunnel to a server that echoes, sends it a body, and checks what
// comes back.
func (l *lab) tunnel(ctx context.Context, c *client, q request) outcome {
	target := l.target(q, l.origin.echoAddr, l.links.echo)
	if q.tls {
		target = l.target(q, l.origin.tlsAddr, l.links.tls)
	}
	_, port, _ := net.SplitHostPort(target)
	conn, err := c.connect(ctx, net.JoinHostPort(q.host(), port))
	var no *refused
	if errors.As(err, &no) {
		return answeredWith(no.resp)
	}
	if err != nil {
		return failed(false, err)
	}
	defer conn.Close()
	if q.tls {
		inner := tls.Client(conn, &tls.Config{RootCAs: l.roots, ServerName: "127.0.0.1"})
		if err := inner.HandshakeContext(ctx); err != nil {
			return failed(true, err)
		}
		conn = inner
	}
	if err := l.echo(conn, q); err != nil {
		return failed(true, err)
	}
	return outcome{class: whole, answered: true}
}

// echo sends a body and reads it back: as many bytes, or, where the client ends its
// direction, to the end.
func (l *lab) echo(conn tunnelConn, q request) error {
	id := []byte(q.id())
	sent := make(chan error, 1)
	go func() {
		err := (&pattern.Body{ID: id}).Send(conn, q.size)
		if err == nil && q.halfClose {
			err = conn.CloseWrite()
		}
		sent <- err
	}()
	var r io.Reader = conn
	if !q.halfClose {
		r = io.LimitReader(conn, q.size)
	}
	n, err := readBody(r, q.id())
	if errors.Is(err, errWrongBytes) || n > q.size {
		l.broken.add("%v: after %d bytes of the tunnel: %v", q, n, err)
	}
	if err != nil || n != q.size {
		conn.Close()
		return errors.Join(fmt.Errorf("%d of %d bytes came back: %w", n, q.size, err), <-sent)
	}
	return <-sent
}
