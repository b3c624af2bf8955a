package clientend

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// openHTTP3 opens a tunnel over HTTP/3 to a server that does with the stream what serve says,
// and whose handler then ends.
func openHTTP3(t *testing.T, serve func(s *Stream)) (send *http3.RequestStream, receive io.Reader) {
	t.Helper()
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
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := NewStream(w, r, nil)
			w.WriteHeader(http.StatusOK)
			if err := s.SendHead(); err != nil {
				t.Errorf("the head: %v", err)
			}
			if _, err := s.Read(make([]byte, 1)); err != nil { // the client has the head
				t.Errorf("reading: %v", err)
			}
			serve(s)
			panic(http.ErrAbortHandler)
		}),
	}
	go func() { _ = server.Serve(udp) }()
	t.Cleanup(func() {
		_ = server.Close()
		_ = udp.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	conn, err := quic.DialAddr(ctx, udp.LocalAddr().String(), &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	send, err = new(http3.Transport).NewClientConn(conn).OpenRequestStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	_ = send.SetDeadline(deadline)
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: "a:1"}, Host: "a:1", Header: http.Header{}}
	if err := send.SendRequestHeader(r.WithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	resp, err := send.ReadResponse()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(send, "x"); err != nil {
		t.Fatal(err)
	}
	return send, resp.Body
}

// awaitStop sends until the server wants no more, and returns why.
func awaitStop(w io.Writer) error {
	for {
		if _, err := io.WriteString(w, "more"); err != nil {
			return err
		}
	}
}

// What was sent up to the end of our direction arrives whole over HTTP/3, also where the
// tunnel breaks behind that. What is cut is reset, both ways.
func TestStream_EndHTTP3(t *testing.T) {
	answer := strings.Repeat("x", 200<<10)
	isConnectError := func(err error) bool {
		e, ok := errors.AsType[*http3.Error](err)
		return ok && e.ErrorCode == http3.ErrCodeConnectError
	}
	for name, ended := range map[string]bool{"broken behind our end": true, "broken": false} {
		t.Run(name, func(t *testing.T) {
			client, from := openHTTP3(t, func(s *Stream) {
				if _, err := io.WriteString(s, answer); err != nil {
					t.Errorf("writing: %v", err)
				}
				if ended {
					_ = s.CloseWrite()
				}
				s.End(true)
			})
			if err := awaitStop(client); !isConnectError(err) {
				t.Errorf("sending: %v", err)
			}
			got, err := io.ReadAll(from)
			switch {
			case ended && (len(got) != len(answer) || err != nil):
				t.Errorf("%d bytes of %d, %v", len(got), len(answer), err)
			case !ended && !isConnectError(err):
				t.Errorf("reading: %v", err)
			}
		})
	}
}
