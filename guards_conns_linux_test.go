package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-egress/egress/internal/clientend"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/proxydial"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// guardCert is the certificate of all servers here, and what trusts it.
func guardCert(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	files, pool, err := testcert.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair, pool
}

// counting counts what is read from it.
type counting struct {
	net.Conn
	n atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// socketPair returns both ends of a connection.
func socketPair(t *testing.T, network string) (dialed, accepted net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if dialed, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialed.Close(), accepted.Close() })
	return dialed, accepted
}

func newGuarded(conn, socket net.Conn, peer io.ReadWriter) *guarded {
	return &guarded{conn: conn, socket: socket, stream: relay.StreamOf(conn), peer: peer}
}

func openSocket(network string) func(t *testing.T) *guarded {
	return func(t *testing.T) *guarded {
		dialed, accepted := socketPair(t, network)
		return newGuarded(dialed, dialed, accepted)
	}
}

// openWrapped hides what a connection is.
func openWrapped(open func(t *testing.T) *guarded) func(t *testing.T) *guarded {
	return func(t *testing.T) *guarded {
		g := open(t)
		return newGuarded(struct{ net.Conn }{g.conn}, g.socket, g.peer)
	}
}

func openEarly(t *testing.T) *guarded {
	g := openSocket("tcp")(t)
	return newGuarded(h1.WithEarly(g.conn, nil), g.socket, g.peer)
}

// openTLSOver has an origin with TLS behind what open opens.
func openTLSOver(open func(t *testing.T) *guarded) func(t *testing.T) *guarded {
	return func(t *testing.T) *guarded {
		g := open(t)
		pair, pool := guardCert(t)
		below := &counting{Conn: asConn(g.peer)}
		peer := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
		shaken := make(chan error, 1)
		go func() { shaken <- peer.Handshake() }()
		d := &dial.Dialer{TLSTimeout: guardPatience, TLSConfig: &tls.Config{RootCAs: pool}}
		conn, err := d.Handshake(context.Background(), g.conn, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if err := <-shaken; err != nil {
			t.Fatal(err)
		}
		below.n.Store(0)
		out := newGuarded(conn, g.socket, peer)
		out.below = below
		return out
	}
}

// rwConn is a connection of what is read and written. It has no deadlines.
type rwConn struct {
	io.ReadWriter
	net.Conn
}

func (c rwConn) Read(p []byte) (int, error)  { return c.ReadWriter.Read(p) }
func (c rwConn) Write(p []byte) (int, error) { return c.ReadWriter.Write(p) }

// asConn makes a connection of what a peer reads and writes.
func asConn(rw io.ReadWriter) net.Conn {
	if c, ok := rw.(net.Conn); ok {
		return c
	}
	near, _ := net.Pipe() // for its addresses and its Close
	return rwConn{rw, near}
}

// guardTarget is what the upstreams here are asked for.
var guardTarget = proxydial.Target{Host: "origin.test", Port: 443}

func dialGuarded(t *testing.T, cfg proxydial.Config) *proxydial.Tunnel {
	t.Helper()
	d, err := proxydial.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	tunnel, err := d.DialTunnel(context.Background(), guardTarget, proxydial.Client{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tunnel.Conn.Close() })
	return tunnel
}

// openTLSUpstream is a tunnel through an upstream with TLS and HTTP/1.1.
func openTLSUpstream(t *testing.T) *guarded {
	pair, pool := guardCert(t)
	dialed, accepted := socketPair(t, "tcp")
	below := &counting{Conn: accepted}
	peer := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
	go func() {
		if _, err := http.ReadRequest(bufio.NewReader(peer)); err == nil {
			_, _ = io.WriteString(peer, "HTTP/1.1 200 OK\r\n\r\n")
		}
	}()
	tunnel := dialGuarded(t, proxydial.Config{
		Scheme: proxydial.HTTPS, TLS: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"},
		Dial: func(context.Context) (net.Conn, error) { return dialed, nil },
	})
	below.n.Store(0)
	g := newGuarded(tunnel.Conn, dialed, peer)
	g.below = below
	return g
}

// handled is a request in the hands of its handler.
type handled struct {
	w    http.ResponseWriter
	r    *http.Request
	done chan struct{} // closed: the handler returns
	once sync.Once
}

func (h *handled) Read(p []byte) (int, error) { return h.r.Body.Read(p) }

func (h *handled) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(h.w).Flush()
}

func (h *handled) release() { h.once.Do(func() { close(h.done) }) }

// handOver is a handler that answers, hands the request over and waits.
func handOver(t *testing.T, to chan<- *handled, aborted func(h *handled) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &handled{w: w, r: r, done: make(chan struct{})}
		t.Cleanup(h.release)
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		to <- h
		<-h.done
		if aborted(h) {
			panic(http.ErrAbortHandler)
		}
	})
}

// openH2Upstream is a tunnel through an upstream with HTTP/2.
func openH2Upstream(t *testing.T) *guarded {
	peers := make(chan *handled, 1)
	pair, pool := guardCert(t)
	s := httptest.NewUnstartedServer(handOver(t, peers, func(*handled) bool { return false }))
	s.TLS, s.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{pair}}, true
	s.StartTLS()
	t.Cleanup(s.Close)
	tunnel := dialGuarded(t, proxydial.Config{
		Scheme: proxydial.HTTPS, TLS: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"},
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", s.Listener.Addr().String())
		},
	})
	peer := <-peers
	t.Cleanup(peer.release) // before the server is closed
	return newGuarded(tunnel.Conn, nil, peer)
}

// layer puts a layer over the connection of a client.
type layer func(t *testing.T, accepted, peer net.Conn) (a, p net.Conn)

func asIs(_ *testing.T, accepted, peer net.Conn) (a, p net.Conn) { return accepted, peer }

// hidden is a listener wrapper that hides what it wraps.
func hidden(_ *testing.T, accepted, peer net.Conn) (a, p net.Conn) {
	return struct{ net.Conn }{accepted}, peer
}

// proxied is the listener wrapper for the PROXY protocol, whose header was read.
func proxied(t *testing.T, accepted, peer net.Conn) (a, p net.Conn) {
	wrapped := proxyproto.NewConn(accepted)
	if _, err := io.WriteString(peer, "PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\nx"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(wrapped, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return wrapped, peer
}

func serverTLS(t *testing.T, accepted, peer net.Conn) (a, p net.Conn) {
	pair, pool := guardCert(t)
	server := tls.Server(accepted, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
	client := tls.Client(&counting{Conn: peer}, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	client.NetConn().(*counting).n.Store(0)
	return server, client
}

// clientOver is the connection of a client of a tunnel, as it is taken over.
func clientOver(open func(t *testing.T) *guarded, over ...layer) func(t *testing.T) *guarded {
	return func(t *testing.T) *guarded {
		g := open(t)
		conn, peer := g.conn, g.peer.(net.Conn)
		for _, put := range over {
			conn, peer = put(t, conn, peer)
		}
		out := newGuarded(layers.Innermost(conn), g.socket, peer)
		if tlsConn, ok := peer.(*tls.Conn); ok {
			out.below = tlsConn.NetConn().(*counting)
		}
		return out
	}
}

// response is a client's end of a request.
type response struct {
	io.Reader
	io.Writer
}

// openRequest is a tunnel over a request of HTTP/2 or HTTP/3.
func openRequest(version int) func(t *testing.T) *guarded {
	return func(t *testing.T) *guarded {
		taken := make(chan *handled, 1)
		var stream *clientend.Stream
		handler := handOver(t, taken, func(*handled) bool { return stream.Aborted() })
		pair, pool := guardCert(t)
		config := &tls.Config{Certificates: []tls.Certificate{pair}}
		trust := &tls.Config{RootCAs: pool}
		var transport http.RoundTripper
		var addr string
		if version == 2 {
			s := httptest.NewUnstartedServer(handler)
			s.TLS, s.EnableHTTP2 = config, true
			s.StartTLS()
			t.Cleanup(s.Close)
			h2 := &http.Transport{TLSClientConfig: trust, ForceAttemptHTTP2: true}
			t.Cleanup(h2.CloseIdleConnections)
			transport, addr = h2, s.Listener.Addr().String()
		} else {
			udp, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(config)}
			go func() { _ = s.Serve(udp) }()
			t.Cleanup(func() { _, _ = s.Close(), udp.Close() })
			h3 := &http3.Transport{TLSClientConfig: trust}
			t.Cleanup(func() { _ = h3.Close() })
			transport, addr = h3, udp.LocalAddr().String()
		}
		body, w := io.Pipe()
		t.Cleanup(func() { _ = w.Close() })
		r, err := http.NewRequest(http.MethodPost, "https://"+addr+"/", body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		h := <-taken
		t.Cleanup(h.release) // before the server is closed
		stream = newClientStream(h.w, h.r)
		return &guarded{stream: stream, peer: response{resp.Body, w}, release: h.release}
	}
}
