package integration

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawOrigin is a TCP server that plays a script on each connection and
// records every byte it is sent.
type rawOrigin struct {
	addr  string
	conns chan *originConn // each accepted connection, in order

	mu  sync.Mutex
	all []*originConn
	wg  sync.WaitGroup
}

// newRawOrigin starts an origin that runs script on each connection, and
// closes the connection when script returns.
func newRawOrigin(t *testing.T, script func(c *originConn)) *rawOrigin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveRaw(t, ln, script)
}

// newRawTLSOrigin is newRawOrigin behind TLS, for 127.0.0.1 and localhost.
func newRawTLSOrigin(t *testing.T, script func(c *originConn)) *rawOrigin {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", testCA().serverTLS("127.0.0.1", "localhost"))
	if err != nil {
		t.Fatal(err)
	}
	return serveRaw(t, ln, script)
}

func serveRaw(t *testing.T, ln net.Listener, script func(c *originConn)) *rawOrigin {
	// More than any test has of them: most do not take them out.
	o := &rawOrigin{addr: ln.Addr().String(), conns: make(chan *originConn, 1<<14)}
	o.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			o.mu.Lock()
			c := &originConn{Conn: conn, t: t, number: len(o.all) + 1, closed: make(chan struct{})}
			c.br = bufio.NewReader(io.TeeReader(conn, &c.seen))
			o.all = append(o.all, c)
			o.mu.Unlock()
			o.conns <- c
			o.wg.Go(func() {
				defer c.Close()
				script(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		o.mu.Lock()
		all := o.all
		o.mu.Unlock()
		for _, c := range all {
			c.Close()
		}
		o.wg.Wait()
	})
	return o
}

// count is the number of connections accepted so far.
func (o *rawOrigin) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.all)
}

// url is an http URL of the origin.
func (o *rawOrigin) url(path string) string { return "http://" + o.addr + path }

// Conn is one connection at an origin.
type originConn struct {
	net.Conn
	t      *testing.T
	number int // 1 for the origin's first connection
	br     *bufio.Reader
	seen   lockedBuffer // everything read from the connection

	closeOnce sync.Once
	closed    chan struct{}
}

// lockedBuffer is a buffer that a test may look at while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (c *originConn) Read(p []byte) (int, error) { return c.br.Read(p) }

func (c *originConn) Close() error {
	var err error
	c.closeOnce.Do(func() {
		err = c.Conn.Close()
		close(c.closed)
	})
	return err
}

// reset closes the connection with a RST.
func (c *originConn) reset() {
	conn := c.Conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	c.Close()
}

// closeWrite sends a FIN and goes on reading. It ends the script where the test is over, and has
// closed the connection.
func (c *originConn) closeWrite() {
	err := c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	if errors.Is(err, net.ErrClosed) {
		runtime.Goexit()
	}
	if err != nil {
		c.fail("closing for writing: %v", err)
	}
}

// fail fails the test and ends the script.
func (c *originConn) fail(format string, args ...any) {
	c.t.Errorf("origin connection %d: "+format, append([]any{c.number}, args...)...)
	runtime.Goexit()
}

// head reads one request head, without interpreting it. It ends the script
// when the connection ends cleanly before a request.
func (c *originConn) head() string {
	var head strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			if head.Len() > 0 && errors.Is(err, io.EOF) {
				c.fail("head cut short: %q", head.String())
			}
			runtime.Goexit()
		}
		if line == "\r\n" || line == "\n" {
			return head.String()
		}
	}
}

// request reads one whole request.
func (c *originConn) request() *originRequest {
	head := c.head()
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader(head), c.br)))
	if err != nil {
		c.fail("bad request head %q: %v", head, err)
	}
	or := &originRequest{head: head, method: r.Method, target: r.RequestURI, header: r.Header, host: r.Host}
	if len(r.TransferEncoding) == 0 && r.ContentLength <= 0 {
		return or
	}
	// The body is read through c.br alone, so that nothing behind it is lost.
	if len(r.TransferEncoding) == 0 {
		b := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(c.br, b); err != nil {
			runtime.Goexit()
		}
		or.body = string(b)
		return or
	}
	or.chunked = true
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			runtime.Goexit()
		}
		var size int
		if _, err := fmt.Sscanf(line, "%x\r\n", &size); err != nil {
			c.fail("bad chunk size %q", line)
		}
		or.chunkLines = append(or.chunkLines, strings.TrimSuffix(line, "\r\n"))
		if size == 0 {
			break
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(c.br, b); err != nil {
			runtime.Goexit()
		}
		if string(b[size:]) != "\r\n" {
			c.fail("bad chunk end %q", b[size:])
		}
		or.body += string(b[:size])
	}
	for {
		line, err := c.br.ReadString('\n')
		if err != nil {
			runtime.Goexit()
		}
		if line == "\r\n" {
			return or
		}
		or.trailer = append(or.trailer, strings.TrimSuffix(line, "\r\n"))
	}
}

// originRequest is a request as an origin saw it.
type originRequest struct {
	head       string // raw, with the empty line
	method     string
	target     string
	host       string
	header     http.Header
	body       string
	chunked    bool
	chunkLines []string // the lines with the chunk sizes
	trailer    []string // the raw trailer lines
}

// fields are the raw lines of the head whose name is name.
func (r *originRequest) fields(name string) []string {
	return headFields(r.head, name)
}

// headFields are the raw values of the fields called name in a head.
func headFields(head, name string) []string {
	var values []string
	for _, line := range strings.Split(head, "\r\n")[1:] {
		n, v, ok := strings.Cut(line, ":")
		if ok && strings.EqualFold(n, name) {
			values = append(values, strings.TrimSpace(v))
		}
	}
	return values
}

// headNames are the names of the fields in a head, in lower case and order.
func headNames(head string) []string {
	var names []string
	for _, line := range strings.Split(head, "\r\n")[1:] {
		if n, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.ToLower(n))
		}
	}
	return names
}

// send writes s. A peer that is gone ends the script.
func (c *originConn) send(s string) {
	if _, err := io.WriteString(c.Conn, s); err != nil {
		runtime.Goexit()
	}
}

// awaitEnd reads until the peer ends the connection, by FIN or RST. What
// comes before that stays in seen.
func (c *originConn) awaitEnd() error {
	_, err := io.Copy(io.Discard, c.br)
	return err
}

// ok answers a request with a body.
func (c *originConn) ok(body string) {
	c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

// hold waits for the end of the test or of release.
func (c *originConn) hold(release <-chan struct{}) {
	select {
	case <-release:
	case <-c.closed:
		runtime.Goexit()
	case <-time.After(3 * patience):
		c.fail("held for too long")
	}
}

// newHTTPOrigin starts a net/http origin.
func newHTTPOrigin(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// newHTTPSOrigin starts a net/http origin with TLS, for 127.0.0.1 and
// localhost.
func newHTTPSOrigin(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = testCA().serverTLS("127.0.0.1", "localhost")
	s.Config.ErrorLog = quietLog
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// newEchoOrigin starts a TCP origin that sends back what it gets, and a FIN
// for a FIN.
func newEchoOrigin(t *testing.T) *rawOrigin {
	t.Helper()
	return newRawOrigin(t, echo)
}

// newEchoHost is newEchoOrigin at a host of its own, known by its number.
func newEchoHost(t *testing.T, number int) *rawOrigin {
	t.Helper()
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.1.%d:0", number+1))
	if err != nil {
		t.Skipf("no second loopback address: %v", err)
	}
	return serveRaw(t, ln, echo)
}

func echo(c *originConn) {
	if _, err := io.Copy(c.Conn, c.br); err == nil {
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}
}

// bulk is more than any buffer holds, and nowhere the same.
var bulk = sync.OnceValue(func() string {
	var b []byte
	for i := int64(0); len(b) < 3<<20; i++ {
		b = append(strconv.AppendInt(b, i, 10), ',')
	}
	return string(b)
})

// refusedAddr is an address nobody listens on.
func refusedAddr(t *testing.T) string {
	t.Helper()
	return freeAddr(t)
}

// closeWithoutNotify ends a TLS connection with a bare FIN.
func closeWithoutNotify(c *originConn) {
	c.Conn.(*tls.Conn).NetConn().Close()
	c.Close()
}
