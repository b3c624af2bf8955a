package exchange

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// prefixed appends an integer with a prefix of n bits (RFC 9204 §4.1.1).
func prefixed(b []byte, first byte, n int, v int) []byte {
	most := 1<<n - 1
	if v < most {
		return append(b, first|byte(v))
	}
	b, v = append(b, first|byte(most)), v-most
	for ; v >= 128; v >>= 7 {
		b = append(b, byte(v)|128)
	}
	return append(b, byte(v))
}

// h3Request is a HEADERS frame with pairs of names and values.
func h3Request(fields ...string) []byte {
	block := []byte{0, 0}
	for i := 0; i < len(fields); i += 2 {
		block = append(prefixed(block, 0x20, 3, len(fields[i])), fields[i]...)
		block = append(prefixed(block, 0, 7, len(fields[i+1])), fields[i+1]...)
	}
	return append([]byte{1, byte(len(block))}, block...) // below 64
}

// An HTTP/3 stream that ends within a DATA frame is no end of the body (RFC 9114 §7.1),
// whatever Caddy has wrapped it in. This fails where quic-go's body is not what
// restOfFrame takes it for.
func TestWholeBody(t *testing.T) {
	files, pool, err := testcert.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	type read struct {
		body string
		err  error
	}
	reads := make(chan read, 1)
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range 2 {
				r.Body = struct{ io.ReadCloser }{r.Body} // as Caddy does
			}
			b, err := io.ReadAll(WholeBody(r))
			if again, _ := WholeBody(r).Read(make([]byte, 1)); again > 0 {
				t.Error("bytes behind the end")
			}
			reads <- read{string(b), err}
		}),
	}
	go func() { _ = server.Serve(udp) }()
	defer udp.Close()
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, udp.LocalAddr().String(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	settings, err := conn.OpenUniStreamSync(ctx)
	if err == nil {
		_, err = settings.Write([]byte{0, 4, 0}) // a control stream with empty SETTINGS
	}
	if err != nil {
		t.Fatal(err)
	}
	post := h3Request(":method", "POST", ":scheme", "https", ":path", "/", ":authority", "a")
	connect := h3Request(":method", "CONNECT", ":authority", "a:1")
	for _, tc := range []struct {
		name    string
		request []byte
		frames  string
		want    string
		err     error
	}{
		{"whole upload", post, "\x00\x05hello", "hello", nil},
		{"two frames", post, "\x00\x05hello\x00\x01!", "hello!", nil},
		{"empty", post, "", "", nil},
		{"cut upload", post, "\x00\x09hello", "hello", io.ErrUnexpectedEOF},
		{"cut in the second frame", post, "\x00\x05hello\x00\x02!", "hello!", io.ErrUnexpectedEOF},
		{"cut before the first byte", post, "\x00\x02", "", io.ErrUnexpectedEOF},
		{"whole tunnel", connect, "\x00\x05hello", "hello", nil},
		{"cut tunnel", connect, "\x00\x3fhello", "hello", io.ErrUnexpectedEOF},
	} {
		str, err := conn.OpenStreamSync(ctx)
		if err == nil {
			_, err = io.Copy(str, io.MultiReader(strings.NewReader(string(tc.request)), strings.NewReader(tc.frames)))
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = str.Close()
		select {
		case got := <-reads:
			if got.body != tc.want || got.err != tc.err {
				t.Errorf("%s: %q, %v; want %q, %v", tc.name, got.body, got.err, tc.want, tc.err)
			}
		case <-ctx.Done():
			t.Fatalf("%s: the request has not come", tc.name)
		}
	}
}
