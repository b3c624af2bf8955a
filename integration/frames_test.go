package integration

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framed is a client's HTTP/2 connection, written and read frame by frame.
type framed struct {
	*http2.Framer
	t    *testing.T
	conn *tls.Conn
	next uint32
}

func (p *proxy) dialFrames(t *testing.T) *framed {
	t.Helper()
	conn, err := tls.Dial("tcp", p.secure, clientTLS("h2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(longPatience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := &framed{Framer: http2.NewFramer(conn, conn), t: t, conn: conn, next: 1}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return f
}

// headers opens a stream with fields in this order.
func (f *framed) headers(end bool, fields ...string) (stream uint32) {
	f.t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	stream = f.next
	f.next += 2
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end}); err != nil {
		f.t.Fatal(err)
	}
	return stream
}

// answer is how a stream ended: the status of its response head, or the name of
// the error that reset it or the connection.
func (f *framed) answer(stream uint32) string {
	f.t.Helper()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			if isTimeout(err) {
				f.t.Fatalf("no answer on stream %d", stream)
			}
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				return frame.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return frame.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return "GOAWAY " + frame.ErrCode.String()
		}
	}
}

// RFC 9113 §8.2.1, §8.3, RFC 9110 §5.5: what could not stand in a request line
// or a field line is not written into one, whatever frame it comes in: 400, a
// reset stream or connection, and nothing at the origin.
func TestFrames_Malformed_RFC9113_8_2_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				oc.head()
				oc.ok("reached")
			}
		})
		at := origin.addr
		get := func(over ...string) []string {
			fields := []string{":method", "GET", ":scheme", "http", ":authority", at, ":path", "/"}
			for i := 0; i < len(over); i += 2 {
				replaced := false
				for j := 0; j < len(fields); j += 2 {
					if fields[j] == over[i] {
						fields[j+1], replaced = over[i+1], true
					}
				}
				if !replaced {
					fields = append(fields, over[i:i+2]...)
				}
			}
			return fields
		}
		if got := p.dialFrames(t); got.answer(got.headers(true, get()...)) != "200" {
			t.Fatal("the request that is in order is not served")
		}
		reached := receivedBy(origin)
		injected := " HTTP/1.1\r\nX-Injected: y\r\n\r\n"
		for _, tc := range []struct {
			name   string
			fields []string
		}{
			{"space in :path", get(":path", "/a b")},
			{"version in :path", get(":path", "/ HTTP/1.1")},
			{"CRLF in :path", get(":path", "/"+injected)},
			{"LF in :path", get(":path", "/\nX: y")},
			{"NUL in :path", get(":path", "/a\x00b")},
			{"control in :path", get(":path", "/a\x01b")},
			{"DEL in :path", get(":path", "/a\x7fb")},
			{"tab in :path", get(":path", "/a\tb")},
			{"fragment in :path", get(":path", "/a#b")},
			{"empty :path", get(":path", "")},
			{":path without slash", get(":path", "a")},
			{"asterisk for GET", get(":path", "*")},
			{"space in :method", get(":method", "GET /evil HTTP/1.1")},
			{"CRLF in :method", get(":method", "GET"+injected)},
			{"colon in :method", get(":method", "GE:T")},
			{"empty :method", get(":method", "")},
			{"space in :authority", get(":authority", at+" x")},
			{"CRLF in :authority", get(":authority", at+"\r\nX-Injected: y")},
			{"userinfo in :authority", get(":authority", "user@"+at)},
			{"path in :authority", get(":authority", at+"/x")},
			{"two :authority", append(get(), ":authority", "evil.example")},
			{"two :path", append(get(), ":path", "/evil")},
			{"pseudo field behind", append(get("x-a", "b"), ":path", "/evil")},
			{"unknown pseudo field", append([]string{":evil", "1"}, get()...)},
			{"no :path", []string{":method", "GET", ":scheme", "http", ":authority", at}},
			{"no :scheme", []string{":method", "GET", ":authority", at, ":path", "/"}},
			{"CRLF in a value", get("x-a", "b\r\nX-Injected: y")},
			{"LF in a value", get("x-a", "b\nX-Injected: y")},
			{"NUL in a value", get("x-a", "b\x00c")},
			{"control in a value", get("x-a", "b\x01c")},
			{"space in a name", get("x a", "b")},
			{"colon in a name", get("x:a", "b")},
			{"CRLF in a name", get("x-a\r\nX-Injected", "y")},
			{"upper case name", get("X-Injected", "y")},
			{"empty name", get("", "y")},
			{"connection", get("connection", "x-a")},
			{"transfer-encoding", get("transfer-encoding", "chunked")},
			{"te", get("te", "gzip")},
			{"connect without a port", []string{":method", "CONNECT", ":authority", "127.0.0.1"}},
			{"connect with :path", []string{":method", "CONNECT", ":scheme", "http", ":authority", at, ":path", "/"}},
			{"connect with space", []string{":method", "CONNECT", ":authority", at + " x"}},
			{"connect with CRLF", []string{":method", "CONNECT", ":authority", at + "\r\nX: y"}},
			{"connect with NUL", []string{":method", "CONNECT", ":authority", at + "\x00"}},
			{"connect without :authority", []string{":method", "CONNECT"}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				f := p.dialFrames(t)
				got := f.answer(f.headers(true, tc.fields...))
				if strings.HasPrefix(got, "2") {
					t.Errorf("answered with %s", got)
				}
				if now := receivedBy(origin); now != reached {
					t.Errorf("answered with %s; the origin got %q", got, strings.TrimPrefix(now, reached))
					reached = now
				}
				// The connection goes on, unless it is the frame that is bad.
				if len(got) == 3 {
					if next := f.answer(f.headers(true, get()...)); next != "200" {
						t.Errorf("the next request: %s", next)
					}
					reached = receivedBy(origin)
				}
			})
		}
	})
}

// RFC 9113 §8.1.1: a length that the content does not have makes a request malformed. Go's
// server does not look at it where there is no content at all, takes what is no length for
// none, and the first of several: nothing of that is forwarded.
func TestFrames_ContentLength_RFC9113_8_1_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		request := func(method string, lengths ...string) []string {
			fields := []string{":method", method, ":authority", origin.addr}
			if method != "CONNECT" {
				fields = append(fields, ":scheme", "http", ":path", "/")
			}
			for _, l := range lengths {
				fields = append(fields, "content-length", l)
			}
			return fields
		}
		for _, lengths := range [][]string{{"5"}, {"5000000"}, {"0", "5"}, {"5", "0"}, {"0", "0"}, {"+0"}, {"0x0"}, {"0, 0"}, {""}, {"18446744073709551616"}} {
			for _, method := range []string{"POST", "PUT", "GET"} {
				f := p.dialFrames(t)
				if got := f.answer(f.headers(true, request(method, lengths...)...)); got != "400" {
					t.Errorf("%s with lengths %q and no body: %s", method, lengths, got)
				}
			}
		}
		for _, lengths := range [][]string{{"+5"}, {"abc"}, {"5, 5"}, {""}, {"18446744073709551616"}, {"5", "6"}, {"5", "5"}, {"-1"}} {
			for _, method := range []string{"POST", "CONNECT"} {
				f := p.dialFrames(t)
				if got := f.answer(f.headers(false, request(method, lengths...)...)); got != "400" {
					t.Errorf("%s with lengths %q: %s", method, lengths, got)
				}
			}
		}
		for _, length := range []string{"4", "6"} {
			f := p.dialFrames(t)
			stream := f.headers(false, request("POST", length)...)
			if err := f.WriteData(stream, true, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if got := f.answer(stream); strings.HasPrefix(got, "2") {
				t.Errorf("five bytes that were to be %s: %s", length, got)
			}
		}
		if len(saw) > 0 {
			t.Errorf("the origin saw %q", (<-saw).head)
		}
		f := p.dialFrames(t)
		if got := f.answer(f.headers(true, request("POST", "0")...)); got != "200" {
			t.Errorf("a body of no bytes: %s", got)
		}
	})
}

// RFC 9113 §8.3.1: with :authority, a Host field counts for nothing.
func TestFrames_HostBesideAuthority_RFC9113_8_3_1(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		origin, saw := recorder(t, okResponse)
		f := p.dialFrames(t)
		got := f.answer(f.headers(true, ":method", "GET", ":scheme", "http", ":authority", origin.addr, ":path", "/", "host", "evil.example"))
		if got != "200" {
			return // refusing is as good
		}
		r := await(t, saw, "the request")
		if hosts := r.fields("Host"); len(hosts) != 1 || hosts[0] != origin.addr {
			t.Errorf("Host %q", hosts)
		}
	})
}

// design.md, fact 3: what was or may have been meant for https is not sent in
// clear, as far as the handler can tell: not on port 443, not for the name that
// the client has taken this server for, and nothing at all without hosts.
func TestFrames_SchemeHTTPS(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		send := func(p *proxy, authority string) string {
			f := p.dialFrames(t)
			return f.answer(f.headers(true, ":method", "GET", ":scheme", "https", ":authority", authority, ":path", "/", "cookie", "secret=1"))
		}
		origin := newRawOrigin(t, func(oc *originConn) { oc.head(); oc.ok("in clear") })
		t.Run("no hosts", func(t *testing.T) {
			p := start(t, m, setup{egress: "allow_unauthenticated\n" + openLoopback})
			send(p, origin.addr)
		})
		p := startUsual(t, m)
		t.Run("server name", func(t *testing.T) { send(p, "proxy.test:"+port(origin.addr)) })
		t.Run("port 443", func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:443")
			if err != nil {
				t.Skip(err)
			}
			at443 := serveRaw(t, ln, func(oc *originConn) { _, _ = oc.br.ReadByte() })
			send(p, at443.addr)
			if s := receivedBy(at443); strings.Contains(s, "secret") {
				t.Errorf("sent in clear: %q", s)
			}
		})
		if s := receivedBy(origin); s != "" {
			t.Errorf("sent in clear: %q", s)
		}
		t.Run("elsewhere", func(t *testing.T) {
			send(p, origin.addr)
			if s := receivedBy(origin); strings.Contains(s, "secret") {
				t.Errorf("sent in clear: %q", s)
			}
		})
	})
}

// A stream that its client resets resets the tunnel's connection to the origin
// (RFC 9113 §8.5), and a CONNECT's END_STREAM is a FIN.
func TestFrames_TunnelEnds_RFC9113_8_5(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		for _, code := range []http2.ErrCode{http2.ErrCodeCancel, http2.ErrCodeNo, http2.ErrCodeConnect} {
			t.Run(fmt.Sprint(code), func(t *testing.T) {
				ended := make(chan error, 1)
				origin := newRawOrigin(t, func(oc *originConn) { ended <- oc.awaitEnd() })
				f := p.dialFrames(t)
				stream := f.headers(false, ":method", "CONNECT", ":authority", origin.addr)
				if got := f.answer(stream); got != "200" {
					t.Fatalf("answered with %s", got)
				}
				if err := f.WriteRSTStream(stream, code); err != nil {
					t.Fatal(err)
				}
				if err := await(t, ended, "the end at the origin"); !isTCPReset(err) {
					t.Errorf("the client's %v arrived as %v", code, err)
				}
			})
		}
		t.Run("END_STREAM", func(t *testing.T) {
			got := make(chan string, 1)
			origin := newRawOrigin(t, func(oc *originConn) {
				b, err := io.ReadAll(oc.br)
				got <- fmt.Sprintf("%s %v", b, err)
				oc.send("rest")
			})
			f := p.dialFrames(t)
			stream := f.headers(false, ":method", "CONNECT", ":authority", origin.addr)
			if s := f.answer(stream); s != "200" {
				t.Fatalf("answered with %s", s)
			}
			if err := f.WriteData(stream, true, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if s := await(t, got, "the end at the origin"); s != "hello <nil>" {
				t.Errorf("the origin got %s", s)
			}
			data := ""
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if d, ok := frame.(*http2.DataFrame); ok {
					data += string(d.Data())
					if d.StreamEnded() {
						break
					}
				}
				if rst, ok := frame.(*http2.RSTStreamFrame); ok {
					t.Fatalf("reset with %v after %q", rst.ErrCode, data)
				}
			}
			if data != "rest" {
				t.Errorf("got %q", data)
			}
		})
		t.Run("origin resets", func(t *testing.T) {
			now := make(chan struct{})
			origin := newRawOrigin(t, func(oc *originConn) { oc.hold(now); oc.reset() })
			f := p.dialFrames(t)
			stream := f.headers(false, ":method", "CONNECT", ":authority", origin.addr)
			if s := f.answer(stream); s != "200" {
				t.Fatalf("answered with %s", s)
			}
			close(now)
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if d, ok := frame.(*http2.DataFrame); ok && d.StreamEnded() {
					t.Fatal("the stream ended as if in order")
				}
				if rst, ok := frame.(*http2.RSTStreamFrame); ok && rst.StreamID == stream {
					t.Logf("reset with %v", rst.ErrCode)
					return
				}
			}
		})
	})
}

// Rapid reset: streams that are opened and reset at once leave nothing behind,
// neither here nor at the origin.
func TestFrames_RapidReset(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "transport {\n keepalive off\n}\n"})
		origin := newRawOrigin(t, func(oc *originConn) { _ = oc.awaitEnd() })
		f := p.dialFrames(t)
		go func() { _, _ = io.Copy(io.Discard, f.conn) }()
		for i := range 2000 {
			var stream uint32
			if i%2 == 0 {
				stream = f.next
				var block bytes.Buffer
				enc := hpack.NewEncoder(&block)
				for _, hf := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", origin.addr}, {":path", "/"}} {
					_ = enc.WriteField(hpack.HeaderField{Name: hf[0], Value: hf[1]})
				}
				f.next += 2
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}) != nil {
					break // the server has had enough: that is its right
				}
			} else {
				stream = f.next
				var block bytes.Buffer
				enc := hpack.NewEncoder(&block)
				_ = enc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
				_ = enc.WriteField(hpack.HeaderField{Name: ":authority", Value: origin.addr})
				f.next += 2
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}) != nil {
					break
				}
			}
			if f.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
				break
			}
		}
		f.conn.Close()
		// Somebody else is served as before.
		good, _ := recorder(t, okResponse)
		p.client(t, "h2").get(t, good.url("/")).expect(t, 200, "ok")
		// Every connection to the origin ends.
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			origin.mu.Lock()
			open := 0
			for _, c := range origin.all {
				select {
				case <-c.closed:
				default:
					open++
				}
			}
			origin.mu.Unlock()
			if open == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d connections to the origin are left", open)
			}
		}
	})
}

// receivedBy is every byte of every connection to an origin so far.
func receivedBy(o *rawOrigin) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var s strings.Builder
	for _, c := range o.all {
		s.WriteString(c.seen.String())
	}
	return s.String()
}
