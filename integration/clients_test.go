//lint:file-ignore SA1019 net/http offers no HTTP/2 connection on which requests for http go over TLS

package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// clientKinds are the ways a client may speak to the proxy.
var clientKinds = []string{"h1", "h1tls", "h2", "h3"}

// receivedVersion is how Via names the protocol of a kind of client.
var receivedVersion = map[string]string{"h1": "1.1", "h1tls": "1.1", "h2": "2", "h3": "3"}

// eachClient runs f with a client of each kind.
func eachClient(t *testing.T, p *proxy, f func(t *testing.T, c *client)) {
	t.Helper()
	for _, kind := range clientKinds {
		t.Run(kind, func(t *testing.T) { f(t, p.client(t, kind)) })
	}
}

// eachClientAtOnce is eachClient with all kinds at the same time, for tests that
// mostly wait. They run when the caller has returned, and share the proxy alone.
func eachClientAtOnce(t *testing.T, p *proxy, f func(t *testing.T, c *client)) {
	t.Helper()
	for _, kind := range clientKinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, p.client(t, kind))
		})
	}
}

// eachH1 runs f for HTTP/1.1 in clear and over TLS.
func eachH1(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{"h1", "h1tls"} {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

// eachH1AtOnce is to eachH1 what eachClientAtOnce is to eachClient.
func eachH1AtOnce(t *testing.T, f func(t *testing.T, kind string)) {
	t.Helper()
	for _, kind := range []string{"h1", "h1tls"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, kind)
		})
	}
}

// client speaks to a proxy in one protocol.
type client struct {
	kind string
	p    *proxy
	ctx  context.Context
	rt   http.RoundTripper

	h1 *http.Transport
	h2 *http2.ClientConn //nolint:staticcheck // net/http offers no h2 connection for plain-http requests over TLS
	h3 *http3.ClientConn
}

// client makes a client of a kind. What it opens is closed at the test's end.
func (p *proxy) client(t *testing.T, kind string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longPatience)
	t.Cleanup(cancel)
	c := &client{kind: kind, p: p, ctx: ctx}
	switch kind {
	case "h1", "h1tls":
		u := &url.URL{Scheme: "http", Host: p.plain}
		if kind == "h1tls" {
			u = &url.URL{Scheme: "https", Host: p.secure}
		}
		c.h1 = &http.Transport{
			Proxy:              http.ProxyURL(u),
			DisableCompression: true,
			TLSClientConfig:    clientTLS(),
		}
		t.Cleanup(c.h1.CloseIdleConnections)
		c.rt = c.h1
	case "h2":
		conn, err := tls.Dial("tcp", p.secure, clientTLS("h2"))
		if err != nil {
			t.Fatal(err)
		}
		if c.h2, err = (&http2.Transport{DisableCompression: true}).NewClientConn(conn); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.h2.Close() })
		c.rt = c.h2
	case "h3":
		conn, err := quic.DialAddr(ctx, p.secure, clientTLS(http3.NextProtoH3), &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		c.h3 = (&http3.Transport{DisableCompression: true}).NewClientConn(conn)
		t.Cleanup(func() {
			_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		})
		c.rt = c.h3
	default:
		t.Fatalf("no client %q", kind)
	}
	return c
}

// newRequest makes a request that carries nothing but what the test wants.
func (c *client) newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(c.ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User-Agent", "")
	r.GetBody = nil // the client must not retry what the proxy may not
	return r
}

// response is what a client got.
type response struct {
	*http.Response
	body    string
	bodyErr error
}

// try sends a request and reads the whole response.
func (c *client) try(r *http.Request) (*response, error) {
	resp, err := c.rt.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &response{Response: resp, body: string(b), bodyErr: err}, nil
}

// do sends a request and reads the response, which must come.
func (c *client) do(t *testing.T, r *http.Request) *response {
	t.Helper()
	resp, err := c.try(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return resp
}

// answer is how a request ended.
type answer struct {
	*response
	err error
}

// goTry is try without waiting for the result.
func (c *client) goTry(r *http.Request) <-chan answer {
	result := make(chan answer, 1)
	go func() {
		resp, err := c.try(r)
		result <- answer{resp, err}
	}()
	return result
}

func (a answer) must(t *testing.T) *response {
	t.Helper()
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.response
}

// get is do for a GET.
func (c *client) get(t *testing.T, url string) *response {
	t.Helper()
	return c.do(t, c.newRequest(t, http.MethodGet, url, nil))
}

// expect fails the test unless the response has this status and body.
func (r *response) expect(t *testing.T, status int, body string) {
	t.Helper()
	if r.StatusCode != status || r.body != body || r.bodyErr != nil {
		t.Errorf("got %d %q (%v), want %d %q; header %v", r.StatusCode, r.body, r.bodyErr, status, body, r.Header)
	}
}

// expectError fails the test unless the response is an error of ours with
// this status and one of these RFC 9209 error types.
func expectError(t *testing.T, resp *http.Response, status int, types ...string) {
	t.Helper()
	if resp.StatusCode != status {
		t.Errorf("status %d, want %d; header %v", resp.StatusCode, status, resp.Header)
	}
	got := resp.Header.Values("Proxy-Status")
	if len(got) != 1 {
		t.Errorf("Proxy-Status %q, want one; header %v", got, resp.Header)
		return
	}
	name, typ, err := parseProxyStatus(got[0])
	if err != nil {
		t.Errorf("malformed Proxy-Status %q: %v", got[0], err)
		return
	}
	if name != "caddy" {
		t.Errorf("Proxy-Status %q does not name caddy", got[0])
	}
	for _, want := range types {
		if typ == want {
			return
		}
	}
	if len(types) > 0 {
		t.Errorf("Proxy-Status %q, want error=%s", got[0], strings.Join(types, " or "))
	}
}

// traced adds a hook for interim responses to a request.
func traced(r *http.Request, f func(code int, header http.Header)) *http.Request {
	return r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			f(code, http.Header(header))
			return nil
		},
	}))
}

// tunnel is a client's side of a CONNECT.
type tunnel struct {
	io.Reader
	io.Writer
	// CloseWrite ends our direction: FIN or END_STREAM.
	CloseWrite func() error
	// Abort gives up the tunnel: RST or RST_STREAM.
	Abort func()
	// Close lets go of it.
	Close func()
}

// connect asks for a tunnel, with early bytes sent before the answer.
func (c *client) connect(t *testing.T, target, early string, header http.Header) (*http.Response, *tunnel) {
	t.Helper()
	switch c.kind {
	case "h2":
		return c.connectH2(t, target, early, header)
	case "h3":
		return c.connectH3(t, target, early, header)
	}
	raw := c.p.dialH1(t, c.kind)
	var head bytes.Buffer
	fmt.Fprintf(&head, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", target, target)
	_ = header.Write(&head)
	raw.send(head.String() + "\r\n" + early)
	resp := raw.responseHead(http.MethodConnect)
	return resp.Response, &tunnel{
		Reader: raw, Writer: raw.Conn,
		CloseWrite: raw.CloseWrite,
		Abort:      raw.abort,
		Close:      func() { raw.Conn.Close() },
	}
}

// open is connect for a tunnel that must come about.
func (c *client) open(t *testing.T, target string) *tunnel {
	t.Helper()
	resp, tun := c.connect(t, target, "", nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT %s: %s %v", target, resp.Status, resp.Header)
	}
	return tun
}

func (c *client) connectH2(t *testing.T, target, early string, header http.Header) (*http.Response, *tunnel) {
	t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	t.Cleanup(cancel)
	pr, pw := io.Pipe()
	r := connectRequest(ctx, target, header)
	r.Body = pr
	r.ContentLength = -1
	if early != "" {
		r.Body = io.NopCloser(io.MultiReader(strings.NewReader(early), pr))
	}
	resp, err := c.h2.RoundTrip(r)
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	t.Cleanup(func() { pw.Close() })
	return resp, &tunnel{
		Reader: resp.Body, Writer: pw,
		CloseWrite: pw.Close,
		Abort: func() {
			cancel()
			pw.CloseWithError(context.Canceled) // x/net looks up only when its body read returns
		},
		Close: func() { pw.Close(); resp.Body.Close() },
	}
}

func (c *client) connectH3(t *testing.T, target, early string, header http.Header) (*http.Response, *tunnel) {
	t.Helper()
	str, err := c.h3.OpenRequestStream(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := c.ctx.Deadline()
	_ = str.SetDeadline(deadline)
	if err := str.SendRequestHeader(connectRequest(c.ctx, target, header)); err != nil {
		t.Fatal(err)
	}
	if early != "" {
		// A refusal may come first, and ask for no more (RFC 9114 §4.1).
		if _, err := io.WriteString(str, early); err != nil && !isStopped(err) {
			t.Fatal(err)
		}
	}
	resp, err := str.ReadResponse()
	if err != nil {
		t.Fatalf("CONNECT %s: %v", target, err)
	}
	cancel := func(code http3.ErrCode) {
		str.CancelRead(quic.StreamErrorCode(code))
		str.CancelWrite(quic.StreamErrorCode(code))
	}
	t.Cleanup(func() { cancel(http3.ErrCodeRequestCanceled) })
	return resp, &tunnel{
		Reader: resp.Body, Writer: str,
		CloseWrite: str.Close,
		Abort:      func() { cancel(http3.ErrCodeConnectError) },
		Close:      func() { str.Close(); str.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError)) },
	}
}

func connectRequest(ctx context.Context, target string, header http.Header) *http.Request {
	if header == nil {
		header = http.Header{}
	}
	return (&http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Host: target},
		Host:   target,
		Header: header,
	}).WithContext(ctx)
}

// isStopped says whether a server of HTTP/3 wants no more of a request, whose
// response it sends all the same.
func isStopped(err error) bool {
	var se *quic.StreamError
	var he *http3.Error
	return errors.As(err, &se) && se.ErrorCode == quic.StreamErrorCode(http3.ErrCodeNoError) ||
		errors.As(err, &he) && he.ErrorCode == http3.ErrCodeNoError
}

// isReset says whether a tunnel or body ended the hard way in its protocol:
// not with a clean end, and not because the test lost patience.
func isReset(err error) bool {
	var se http2.StreamError
	var qe *quic.StreamError
	var he *http3.Error
	switch {
	case err == nil, errors.Is(err, io.EOF), isTimeout(err), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &se), errors.As(err, &qe), errors.As(err, &he), isTCPReset(err):
		return true
	default: // TLS without close_notify
		return errors.Is(err, io.ErrUnexpectedEOF)
	}
}

// readN reads n bytes as a string.
func readN(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatalf("reading %d bytes: %v", n, err)
	}
	return string(b)
}

// write writes s to a tunnel.
func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("writing %q: %v", s, err)
	}
}

// alive fails the test unless a tunnel to an echo moves bytes.
func alive(t *testing.T, tun *tunnel, what string) {
	t.Helper()
	write(t, tun, "ping")
	if got := readN(t, tun, 4); got != "ping" {
		t.Errorf("%s: %q", what, got)
	}
}

// gate is a channel that may be closed more than once.
type gate struct {
	once sync.Once
	c    chan struct{}
}

func newGate() *gate { return &gate{c: make(chan struct{})} }

func (g *gate) open() { g.once.Do(func() { close(g.c) }) }

var _ net.Conn = (*originConn)(nil)

// withCancel gives a request a context of its own to cancel.
func withCancel(r *http.Request) (*http.Request, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	return r.WithContext(ctx), cancel
}

func cancelIf(yes bool, cancel context.CancelFunc) {
	if yes {
		cancel()
	}
}

// errDeadline is how a client's patience ends on HTTP/2 and HTTP/3.
var errDeadline = context.DeadlineExceeded

// tryConnect asks for a tunnel on HTTP/2 or HTTP/3 and returns the status.
func (c *client) tryConnect(target string) (int, error) {
	if c.h2 != nil {
		resp, err := c.h2.RoundTrip(connectRequest(c.ctx, target, nil))
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	str, err := c.h3.OpenRequestStream(c.ctx)
	if err != nil {
		return 0, err
	}
	defer str.Close()
	if err := str.SendRequestHeader(connectRequest(c.ctx, target, nil)); err != nil {
		return 0, err
	}
	resp, err := str.ReadResponse()
	if err != nil {
		return 0, err
	}
	str.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	return resp.StatusCode, nil
}

func readAll(resp *http.Response) *response {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &response{Response: resp, body: string(b), bodyErr: err}
}
