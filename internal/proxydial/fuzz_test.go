package proxydial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// said is a connection whose peer has sent everything and closed.
type said struct {
	net.Conn
	r io.Reader
}

func (s *said) Read(p []byte) (int, error)  { return s.r.Read(p) }
func (s *said) Write(p []byte) (int, error) { return len(p), nil }
func (s *said) Close() error                { return nil }
func (s *said) SetDeadline(time.Time) error { return nil }

// FuzzConnectReply: whatever a proxy answers, the result is a tunnel with all the
// bytes behind the head, or a typed error.
func FuzzConnectReply(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nrest", "HTTP/1.1 103 x\r\n\r\nHTTP/1.0 204 x\n\nrest",
		"HTTP/1.1 502 x\r\nProxy-Status: a;error=dns_error\r\n\r\n", "HTTP/1.1 407 x\r\n\r\n", "\x05\x00", "",
	} {
		f.Add([]byte(s))
	}
	d, err := New(Config{Scheme: HTTP, Dial: func(context.Context) (net.Conn, error) { return nil, io.EOF }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tn, err := d.connect(context.Background(), &said{r: bytes.NewReader(b)}, request{authority: "origin.test:443"})
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Stage != StageReply && e.Stage != StageAuth || !e.Sent || tn != nil {
				t.Fatalf("%v, %+v", err, tn)
			}
			if r, ok := errors.AsType[*ReplyError](err); ok {
				r.Evident()
				if r.Status < 300 || (r.Status == 407 || r.Status == 401) != (e.Stage == StageAuth) {
					t.Fatalf("%v", err)
				}
			}
			return
		}
		rest, _ := io.ReadAll(tn.Conn)
		all := append(append([]byte(nil), tn.Early...), rest...)
		if tn.Reply.Status < 200 || tn.Reply.Status > 299 || !bytes.HasSuffix(b, all) {
			t.Fatalf("%+v, %q of %q", tn.Reply, all, b)
		}
		head := b[:len(b)-len(all)]
		if !bytes.HasSuffix(head, []byte("\n\r\n")) && !bytes.HasSuffix(head, []byte("\n\n")) {
			t.Fatalf("the head is %q", head)
		}
	})
}

// FuzzSOCKSReply: no panic, a typed error, and nothing read behind a reply.
func FuzzSOCKSReply(f *testing.F) {
	for _, s := range []string{socksOK, socksOK + "rest", "\x05\x05", "\x05\x00\x00\x03\x02abcd", "\x05\x00\x00\x04", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		err := readSOCKSReply(r)
		if err == nil {
			used := len(b) - r.Len()
			want := map[byte]int{1: 10, 4: 22}[b[3]]
			if b[3] == 3 {
				want = 7 + int(b[4])
			}
			if used != want {
				t.Fatalf("read %d bytes of %q, want %d", used, b, want)
			}
			return
		}
		_, refused := errors.AsType[*SOCKSError](err)
		_, malformed := errors.AsType[*MalformedError](err)
		if !refused && !malformed && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("%v", err)
		}
	})
}

// FuzzH2Frames: whatever frames come, the connection ends in order: the tunnel
// fails, every goroutine and slot is given back.
func FuzzH2Frames(f *testing.F) {
	var b bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 3})
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}, EndHeaders: true})
	_ = fr.WriteData(1, false, []byte("hello"))
	_ = fr.WriteWindowUpdate(1, 100)
	_ = fr.WritePing(false, [8]byte{1})
	f.Add(bytes.Clone(b.Bytes()))
	_ = fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	f.Add(bytes.Clone(b.Bytes()))
	_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := New(Config{Scheme: HTTPS, TLS: clientTLS(), Dial: func(context.Context) (net.Conn, error) { return nil, io.EOF }})
		if err != nil {
			t.Fatal(err)
		}
		client, server := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, server) }()
		go func() {
			_, _ = server.Write(b)
			server.Close()
		}()
		c, err := newH2Conn(context.Background(), client, d.pool)
		if err != nil {
			return
		}
		if !c.reserve() {
			c.fail(io.EOF)
			return
		}
		if tn, err := d.tunnelOn(context.Background(), offer{c: c}, request{authority: "origin.test:443"}); err == nil {
			_, _ = io.Copy(io.Discard, tn.Conn)
			tn.Conn.Close()
		}
		if n := c.load(); n != 0 {
			t.Fatalf("%d slots are taken", n)
		}
	})
}
