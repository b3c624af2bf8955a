package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// fuzzed is a proxy, an origin that sends what the fuzzer says, and the one
// connection of a client between whose requests nothing may leak.
type fuzzed struct {
	proxy  string
	origin string
	now    atomic.Pointer[fuzzedAnswer]
	number int
	client *fuzzedClient
}

// fuzzedAnswer is what the origin sends for one path.
type fuzzedAnswer struct {
	path    string
	data    []byte
	plan    []byte // the lengths of the writes, less one
	stay    bool   // the connection stays open behind it
	written chan struct{}
}

type fuzzedClient struct {
	net.Conn
	br *bufio.Reader
}

// stayFor is how long a connection stays open that the origin does not close: the
// proxy may wait that long for the rest of a response.
const stayFor = 3 * time.Millisecond

// FuzzExchange takes random bytes of an origin, in random pieces, through a whole
// Caddy: the client gets the response that net/http reads in them, or a 502 of the
// proxy, or a response that is visibly broken, and never a mix; and the next request
// on the client's connection gets its own answer.
func FuzzExchange(f *testing.F) {
	const okHead = "HTTP/1.1 200 OK\r\n"
	for i, s := range []string{
		okHead + "Content-Length: 5\r\n\r\nhello", okHead + "Content-Length: 5\r\n\r\nhel", okHead + "Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		okHead + "Transfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n", okHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3",
		okHead + "\r\nuntil the end", "HTTP/1.0 200 OK\r\nKeep-Alive: timeout=1\r\n\r\nx", "HTTP/1.1 204 No\r\n\r\nsurplus", "HTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 404 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		okHead + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", okHead + "Content-Length: 1, 2\r\n\r\nab", "HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
		okHead + "A: b\r\n c\r\n\r\n", okHead + "A : b\r\n\r\n", "HTTP/1.1 407 x\r\nProxy-Authenticate: Basic\r\n\r\n", "\x16\x03\x01", "", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
		okHead + "Connection: x-a\r\nX-A: 1\r\nX-B: 2\r\nX-B: 3\r\nVia: 1.0 y\r\nProxy-Status: z\r\nContent-Length: 1\r\n\r\nx",
		"HTTP/1.1 502 x\r\nProxy-Status: caddy; error=x\r\nContent-Length: 1\r\n\r\nx",
	} {
		for how := range byte(8) {
			f.Add([]byte(s), []byte{200, 3, byte(i)}, how<<2|byte(i)&3)
		}
	}
	// What comes behind a response in a packet of its own.
	first := okHead + "Content-Length: 5\r\n\r\nhello"
	for i := range byte(16) {
		f.Add([]byte(first+okHead+"Content-Length: 4\r\n\r\nevil"), []byte{byte(len(first) - 1), i}, byte(4))
	}
	z := startFuzzed(f)
	f.Fuzz(func(t *testing.T, data, plan []byte, how byte) {
		if len(data) > 1<<15 || len(plan) > 64 {
			return
		}
		method := []string{"GET", "HEAD", "POST", "GET"}[how&3]
		minor := 1
		if how&3 == 3 {
			minor = int(how >> 6 & 1)
		}
		a := &fuzzedAnswer{data: data, plan: plan, stay: how&4 != 0}
		framed := how & 24 // what the fuzzer made is the body of a good response
		switch framed {
		case 8:
			a.data = fmt.Appendf(nil, okHead+"Content-Length: %d\r\n\r\n%s", len(data), data)
		case 16:
			a.data = fmt.Appendf(nil, okHead+"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(data), data)
			if len(data) == 0 || method == "HEAD" {
				framed = 0
			}
		default:
			framed = 0
		}
		z.exchange(t, a, method, minor, framed != 0, data)
		if t.Failed() {
			t.Logf("%s, HTTP/1.%d, stay %t, the origin sent %q", method, minor, a.stay, a.data)
		}
	})
}

// exchange makes one request for what the fuzzer says, and one behind it.
func (z *fuzzed) exchange(t *testing.T, a *fuzzedAnswer, method string, minor int, good bool, body []byte) {
	z.number++
	a.path, a.written = fmt.Sprintf("/fuzz%d", z.number), make(chan struct{})
	z.now.Store(a)
	r := fmt.Sprintf("%s http://%s%s HTTP/1.%d\r\nHost: x\r\n", method, z.origin, a.path, minor)
	if method == "POST" {
		r += "Content-Length: 4\r\n\r\nbody"
	} else {
		r += "\r\n"
	}
	c := z.dialed(t)
	got := c.ask(t, r, method)
	// What comes behind a response after its connection has been taken for the next
	// one cannot be told from the next response, by nobody: so not while it is sent.
	select {
	case <-a.written:
	case <-time.After(patience):
		t.Fatal("the origin was not asked")
	}
	want := referenceOf(a.data, method)
	want.compare(t, got, minor)
	if good && (got.own || got.status != 200 || !got.whole || method != "HEAD" && !bytes.Equal(got.body, body)) {
		t.Errorf("the client got %+v of a good response", got)
	}
	if got.closed || minor == 0 {
		z.forget()
	}
	path := fmt.Sprintf("/own%d", z.number)
	next := z.dialed(t).ask(t, fmt.Sprintf("GET http://%s%s HTTP/1.1\r\nHost: x\r\n\r\n", z.origin, path), "GET")
	if !next.whole || next.status != 200 || string(next.body) != path {
		t.Errorf("the next request got %+v", next)
	}
	if t.Failed() || next.closed {
		z.forget()
	}
}

// received is a response as a client has seen it.
type received struct {
	status int
	header http.Header
	body   []byte
	whole  bool // and it says so itself
	own    bool // the proxy has made it
	closed bool // the connection cannot take another request
	refuse string
}

// ask sends a request and reads its response.
func (c *fuzzedClient) ask(t *testing.T, request, method string) received {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatalf("the connection of the client is broken: %v", err)
	}
	got := readReceived(c.br, method)
	if errors.Is(c.SetDeadline(time.Time{}), net.ErrClosed) || strings.Contains(got.refuse, "timeout") {
		t.Errorf("no end of a response: %+v", got)
	}
	if n := c.br.Buffered(); n > 0 {
		behind, _ := c.br.Peek(n)
		t.Errorf("%q stands behind the response %+v", behind, got)
	}
	p := got.header.Get("Proxy-Status")
	got.own = got.status >= 500 && strings.HasPrefix(p, "caddy; error=") && len(got.header["Via"]) == 0
	return got
}

// readReceived reads with net/http, strictly: the final response and its body.
func readReceived(br *bufio.Reader, method string) (got received) {
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			return received{refuse: err.Error(), closed: true}
		}
		if resp.StatusCode < 200 && resp.StatusCode != 101 {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		got = received{status: resp.StatusCode, header: resp.Header, body: body, whole: err == nil, closed: resp.Close || err != nil}
		if err != nil {
			got.refuse = err.Error()
		}
		return got
	}
}

// referenceOf is what net/http reads in the bytes of an origin that closes behind
// them.
func referenceOf(data []byte, method string) received {
	return readReceived(bufio.NewReaderSize(bytes.NewReader(data), 1<<16), method)
}

// compare holds what the client got against what the origin sent.
func (want *received) compare(t *testing.T, got received, minor int) {
	switch {
	case got.own:
		return
	case got.status == 0 && got.refuse != "": // a broken connection
		if got.refuse != io.ErrUnexpectedEOF.Error() {
			t.Errorf("the client got no response: %s", got.refuse)
		}
		return
	case got.status != want.status || got.status == 101:
		t.Errorf("the client got %+v, the origin sent %+v", got, *want)
		return
	}
	if !bytes.HasPrefix(want.body, got.body) || got.whole && (!want.whole || len(want.body) != len(got.body)) {
		t.Errorf("the client got the body %q, whole: %t; the origin sent %q, whole: %t (%s)", got.body, got.whole, want.body, want.whole, want.refuse)
	}
	options := strings.ToLower(strings.Join(want.header["Connection"], ","))
	sent := spacesRemoved(want.header)
	for name, values := range sent {
		if ownToHop[name] || strings.Contains(options, strings.ToLower(name)) {
			continue
		}
		if name == "Cache-Control" && got.header[name] == nil {
			continue // net/http has made it of Pragma
		}
		if !reflect.DeepEqual(got.header[name], values) {
			t.Errorf("the client got %s: %q, the origin sent %q", name, got.header[name], values)
		}
	}
	for name := range got.header {
		if !ownToHop[name] && sent[name] == nil {
			t.Errorf("the client got %s: %q, which the origin did not send", name, got.header[name])
		}
	}
}

// spacesRemoved is a header without the white space before colons, which net/http
// leaves in the names and a proxy removes (RFC 9112 §5.1).
func spacesRemoved(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		name = http.CanonicalHeaderKey(strings.TrimRight(name, " \t"))
		out[name] = append(out[name], values...)
	}
	return out
}

// ownToHop are fields that a proxy takes away or writes itself.
var ownToHop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Transfer-Encoding": true, "Te": true, "Upgrade": true,
	"Proxy-Authorization": true, "Proxy-Authenticate": true, "Proxy-Authentication-Info": true, "Http2-Settings": true,
	"Proxy-Support": true, "Trailer": true, "Content-Length": true, "Date": true, "Via": true,
}

// dialed is the connection of the client, a new one where there is none.
func (z *fuzzed) dialed(t *testing.T) *fuzzedClient {
	if z.client == nil {
		conn, err := net.Dial("tcp", z.proxy)
		if err != nil {
			t.Fatal(err)
		}
		z.client = &fuzzedClient{conn, bufio.NewReaderSize(conn, 1<<16)}
	}
	return z.client
}

func (z *fuzzed) forget() {
	if z.client != nil {
		z.client.Close()
		z.client = nil
	}
}

// startFuzzed runs a Caddy and the origin.
func startFuzzed(f *testing.F) *fuzzed {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	z := &fuzzed{proxy: probe.Addr().String(), origin: ln.Addr().String()}
	probe.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go z.serve(conn)
		}
	}()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `%s
http://:%s {
	bind 127.0.0.1
	egress {
		allow_unauthenticated
		destination_circuit off
		%s
		transport {
			reuse_unsafe never
		}
	}
}
`, globals{more: "log default {\n output discard\n}"}, port(z.proxy), openLoopback), nil)
	if err != nil {
		f.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		z.forget()
		ln.Close()
		_ = caddy.Stop()
	})
	return z
}

// serve is the origin on one connection.
func (z *fuzzed) serve(conn net.Conn) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err = io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		_ = conn.SetReadDeadline(time.Time{})
		if strings.HasPrefix(r.URL.Path, "/own") {
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.URL.Path), r.URL.Path)
			continue
		}
		a := z.now.Load()
		if a.path != r.URL.Path || !a.send(conn) {
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(stayFor))
	}
}

// send writes the answer in its pieces, and reports whether the connection stays.
func (a *fuzzedAnswer) send(conn net.Conn) bool {
	for data, i := a.data, 0; len(data) > 0; i++ {
		n := len(data)
		if i < len(a.plan) {
			n = min(int(a.plan[i])+1, n)
		}
		if _, err := conn.Write(data[:n]); err != nil {
			break
		}
		data = data[n:]
	}
	select {
	case <-a.written: // an earlier attempt
	default:
		close(a.written)
	}
	return a.stay
}
