package integration

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

var quietLog = log.New(io.Discard, "", 0)

// rawConn is a client's HTTP/1.1 connection to the proxy, written and read
// byte by byte.
type rawConn struct {
	net.Conn
	t  *testing.T
	br *bufio.Reader
}

// dialPlain connects to the proxy in clear.
func (p *proxy) dialPlain(t *testing.T) *rawConn {
	t.Helper()
	return dialRaw(t, p.plain, nil)
}

// dialSecure connects to the proxy with TLS, HTTP/1.1 inside.
func (p *proxy) dialSecure(t *testing.T) *rawConn {
	t.Helper()
	return dialRaw(t, p.secure, clientTLS("http/1.1"))
}

// dialH1 is dialPlain or dialSecure by the client's kind.
func (p *proxy) dialH1(t *testing.T, kind string) *rawConn {
	t.Helper()
	if kind == "h1tls" {
		return p.dialSecure(t)
	}
	return p.dialPlain(t)
}

func dialRaw(t *testing.T, addr string, config *tls.Config) *rawConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		conn = tls.Client(conn, config)
	}
	_ = conn.SetDeadline(time.Now().Add(longPatience))
	t.Cleanup(func() { conn.Close() })
	return &rawConn{Conn: conn, t: t, br: bufio.NewReader(conn)}
}

// clientTLS trusts the proxy's certificate and offers the given protocols.
func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: testCA().pool, ServerName: "proxy.test", NextProtos: protocols}
}

// Read reads through the buffer of the response reader.
func (c *rawConn) Read(p []byte) (int, error) { return c.br.Read(p) }

// CloseWrite ends our direction.
func (c *rawConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// abort closes the connection with a RST.
func (c *rawConn) abort() {
	conn := c.Conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

func (c *rawConn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatalf("sending: %v", err)
	}
}

// trySend writes to a connection that the proxy may have closed already.
func (c *rawConn) trySend(s string) {
	_, _ = io.WriteString(c.Conn, s)
}

// head reads one response head as it is on the wire.
func (c *rawConn) head() string {
	c.t.Helper()
	var head strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			c.t.Fatalf("reading a response head: %v after %q", err, head.String())
		}
		if line == "\r\n" {
			return head.String()
		}
	}
}

// rawResponse is a response with its head as it was on the wire.
type rawResponse struct {
	*http.Response
	head string
	body string
	err  error // how reading the body failed
}

// response reads one response, interim ones included, to a request with the
// given method.
func (c *rawConn) response(method string) *rawResponse {
	c.t.Helper()
	r := c.responseHead(method)
	var b []byte
	b, r.err = io.ReadAll(r.Body)
	r.body = string(b)
	return r
}

// responseHead reads one response up to its body.
func (c *rawConn) responseHead(method string) *rawResponse {
	c.t.Helper()
	head := c.head()
	resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head), &oneByte{c.br})), &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("bad response head %q: %v", head, err)
	}
	return &rawResponse{Response: resp, head: head}
}

// oneByte keeps a reader on top of it from buffering more than it consumes.
type oneByte struct{ r io.Reader }

func (o *oneByte) Read(p []byte) (int, error) {
	if len(p) > 1 {
		p = p[:1]
	}
	return o.r.Read(p)
}

// expectClosed fails the test unless the proxy closes the connection without
// sending anything more.
func (c *rawConn) expectClosed() {
	c.t.Helper()
	rest, err := io.ReadAll(c.br)
	if len(rest) > 0 {
		c.t.Errorf("unexpected bytes before the close: %q", rest)
	}
	if isTimeout(err) {
		c.t.Errorf("the proxy left the connection open")
	}
}

// roundTrip sends one raw request and reads its response.
func (c *rawConn) roundTrip(method, request string) *rawResponse {
	c.t.Helper()
	c.send(request)
	return c.response(method)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func isTCPReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
