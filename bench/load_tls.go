//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// secure opens tunnels one after the other, each for a TLS handshake with the
// origin and one byte there and back.
func (l *load) secure(w *worker) {
	roots, err := l.roots()
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	for i := range w.n {
		if err == nil {
			w.done(l.secureOnce(config, byte(i)))
		} else {
			w.done(err)
		}
	}
}

func (l *load) secureOnce(config *tls.Config, b byte) error {
	c, err := l.tunnel()
	if err != nil {
		return err
	}
	defer c.Close()
	if c.r < c.w {
		return fmt.Errorf("%d bytes from an origin that waits for the client's", c.w-c.r)
	}
	t := newConn(tls.Client(c.Conn, config), smallBuffer)
	if err := t.echo(b); err != nil {
		return err
	}
	return t.Close()
}

// roots are the certificates that the origin's is checked against.
func (l *load) roots() (*x509.CertPool, error) {
	text, err := os.ReadFile(l.Root)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", l.Root)
	}
	return pool, nil
}

// http2Session is a connection to the proxy that carries many tunnels.
type http2Session struct {
	conn net.Conn // that it runs on
	h2   *http.ClientConn
}

// dialHTTP2 connects to the proxy over TLS. It does not check the proxy's
// certificate, which some peers make themselves.
func (l *load) dialHTTP2() (*http2Session, error) {
	s := new(http2Session)
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	t := &http.Transport{
		Protocols:       protocols,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
			nc, err = new(net.Dialer).DialContext(ctx, network, addr)
			s.conn = nc
			return nc, err
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	var err error
	if s.h2, err = t.NewClientConn(ctx, "https", l.Proxy); err != nil {
		return nil, err
	}
	return s, s.conn.SetDeadline(time.Now().Add(opTimeout))
}

// tunnel opens a stream with CONNECT.
func (s *http2Session) tunnel(to string) (*conn, error) {
	r, w := io.Pipe()
	resp, err := s.h2.RoundTrip(&http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "https", Host: to},
		Host:   to,
		Header: make(http.Header),
		Body:   r,
	})
	if err != nil {
		return nil, err
	}
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("CONNECT over HTTP/2: %s, status %s", resp.Proto, resp.Status)
	}
	return newConn(&stream{Conn: s.conn, w: w, body: resp.Body}, largeBuffer), nil
}

// stream is one tunnel of a session. Its addresses are those of the session, and
// so is its deadline.
type stream struct {
	net.Conn
	w    *io.PipeWriter
	body io.ReadCloser
}

func (s *stream) Read(p []byte) (int, error)  { return s.body.Read(p) }
func (s *stream) Write(p []byte) (int, error) { return s.w.Write(p) }

func (s *stream) Close() error { return errors.Join(s.w.Close(), s.body.Close()) }
