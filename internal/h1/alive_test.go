//go:build unix

package h1

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpPair is a TCP connection, both of its ends.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cc.Close(), sc.Close() })
	return cc.(*net.TCPConn), sc.(*net.TCPConn)
}

// rawConn is a socket.
type rawConn interface {
	net.Conn
	syscall.Conn
}

// awaitReadable waits until there is something to read on the socket, an end or
// an error included, without reading it.
func awaitReadable(t testing.TB, conn rawConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	if err != nil {
		t.Fatalf("nothing has come: %v", err)
	}
	_ = conn.SetReadDeadline(time.Time{})
}

// checkQuietExchange runs an exchange, to show that what Alive did has left the
// connection in order.
func checkQuietExchange(t *testing.T, c *Conn, server net.Conn) {
	t.Helper()
	go func() { _, _ = io.WriteString(server, lines(okLine, "Content-Length: 2")+"ok") }()
	c.Begin()
	if _, _, err := framed(c, "GET"); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(t, c, 100); got != "ok" || err != nil {
		t.Errorf("body %q, %v", got, err)
	}
	if !c.End() {
		t.Error("not reusable")
	}
}

func TestAlive(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, client, server *net.TCPConn)
		want bool
	}{
		{"quiet", func(*testing.T, *net.TCPConn, *net.TCPConn) {}, true},
		{"expired read deadline", func(_ *testing.T, client, _ *net.TCPConn) {
			_ = client.SetReadDeadline(longAgo)
		}, true},
		{"expired deadline", func(_ *testing.T, client, _ *net.TCPConn) {
			_ = client.SetDeadline(longAgo)
		}, true},
		{"closed by the peer", func(t *testing.T, client, server *net.TCPConn) {
			_ = server.Close()
			awaitReadable(t, client)
		}, false},
		{"half-closed by the peer", func(t *testing.T, client, server *net.TCPConn) {
			_ = server.CloseWrite()
			awaitReadable(t, client)
		}, false},
		{"closed by the peer, and an expired deadline", func(t *testing.T, client, server *net.TCPConn) {
			_ = server.Close()
			awaitReadable(t, client)
			_ = client.SetReadDeadline(longAgo)
		}, false},
		{"reset by the peer", func(t *testing.T, client, server *net.TCPConn) {
			_ = server.SetLinger(0)
			_ = server.Close()
			awaitReadable(t, client)
		}, false},
		{"unsolicited byte", func(t *testing.T, client, server *net.TCPConn) {
			_, _ = server.Write([]byte("x"))
			awaitReadable(t, client)
		}, false},
		{"unsolicited response", func(t *testing.T, client, server *net.TCPConn) {
			_, _ = io.WriteString(server, lines("HTTP/1.1 408 Request Timeout", "Connection: close"))
			_ = server.Close()
			awaitReadable(t, client)
		}, false},
		{"closed by us", func(_ *testing.T, client, _ *net.TCPConn) { _ = client.Close() }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, server := tcpPair(t)
			c := NewConn(client)
			if !c.Alive() {
				t.Fatal("a new connection is not alive")
			}
			checkQuietExchange(t, c, server)
			tc.do(t, client, server)
			for range 2 { // looking takes nothing away
				if got := c.Alive(); got != tc.want {
					t.Errorf("alive is %v", got)
				}
			}
			if tc.want {
				_ = client.SetDeadline(time.Time{})
				checkQuietExchange(t, c, server)
			}
		})
	}
}

// TestSilent: what the peer of a new connection does before it is asked.
func TestSilent(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(server net.Conn) error
		want error
	}{
		{"quiet", nil, nil},
		{"response", func(server net.Conn) error {
			_, err := io.WriteString(server, lines(okLine))
			return err
		}, errUnsolicited},
		{"closed", net.Conn.Close, ErrClosedBeforeResponse},
		{"closed after a response", func(server net.Conn) error {
			_, _ = io.WriteString(server, lines(okLine))
			return server.Close()
		}, errUnsolicited},
	} {
		check := func(t *testing.T, client, server net.Conn, raw *net.TCPConn) {
			if tc.do != nil {
				if err := tc.do(server); err != nil {
					t.Fatal(err)
				}
				awaitReadable(t, raw)
			}
			c := begun(client)
			if err := c.Silent(); err != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if tc.want == nil {
				c.End()
				checkQuietExchange(t, c, server)
			}
		}
		t.Run(tc.name, func(t *testing.T) {
			client, server := tcpPair(t)
			check(t, client, server, client)
		})
		t.Run(tc.name+", TLS", func(t *testing.T) {
			client, server, raw := tlsPair(t, tlsOptions{version: tls.VersionTLS12, noteEOF: true})
			check(t, client, server, raw)
		})
	}
	// TLS 1.3: a ticket is no response, and a refused client certificate comes
	// as the alert that it is.
	client, server, raw := tlsPair(t, tlsOptions{version: tls.VersionTLS13, clientAuth: tls.RequestClientCert, noteEOF: true})
	awaitReadable(t, raw)
	c := begun(client)
	if err := c.Silent(); err != nil {
		t.Errorf("with a session ticket: %v", err)
	}
	c.End()
	checkQuietExchange(t, c, server)
}

// testCertificate is made once.
var testCertificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"origin.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// tlsOptions are what the TLS tests vary.
type tlsOptions struct {
	version    uint16
	clientAuth tls.ClientAuthType
	noteEOF    bool
}

// tlsPair is a TLS connection after its handshake; raw is the client's socket.
func tlsPair(t testing.TB, o tlsOptions) (client, server *tls.Conn, raw *net.TCPConn) {
	t.Helper()
	raw, serverRaw := tcpPair(t)
	under := net.Conn(raw)
	if o.noteEOF {
		under = NoteEOF(raw)
	}
	client = tls.Client(under, &tls.Config{
		InsecureSkipVerify: true, // the certificate is not what is tested
		MaxVersion:         o.version,
		ClientSessionCache: tls.NewLRUClientSessionCache(1), // or there are no tickets
	})
	server = tls.Server(serverRaw, &tls.Config{
		Certificates: []tls.Certificate{testCertificate()},
		ClientAuth:   o.clientAuth,
		// A write of up to 16 KiB is one record.
		DynamicRecordSizingDisabled: true,
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server, raw
}

// eachTLS runs a test for each version, with and without NoteEOF.
func eachTLS(t *testing.T, test func(t *testing.T, o tlsOptions)) {
	for _, note := range []bool{false, true} {
		t.Run(fmt.Sprintf("noteEOF %v", note), func(t *testing.T) {
			eachVersion(t, func(t *testing.T, o tlsOptions) {
				o.noteEOF = note
				test(t, o)
			})
		})
	}
}

// eachVersion runs a test for each version, with NoteEOF.
func eachVersion(t *testing.T, test func(t *testing.T, o tlsOptions)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) { test(t, tlsOptions{version: version, noteEOF: true}) })
	}
}

func TestAliveTLS(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, client, server *tls.Conn, raw *net.TCPConn)
		want bool
	}{
		{"quiet", func(*testing.T, *tls.Conn, *tls.Conn, *net.TCPConn) {}, true},
		{"expired deadline", func(_ *testing.T, client, _ *tls.Conn, _ *net.TCPConn) {
			_ = client.SetReadDeadline(longAgo)
		}, true},
		{"closed by the peer", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_ = server.Close()
			awaitReadable(t, raw)
		}, false},
		{"closure alert only", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_ = server.CloseWrite()
			awaitReadable(t, raw)
		}, false},
		{"connection cut below TLS", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_ = server.NetConn().Close()
			awaitReadable(t, raw)
		}, false},
		{"unsolicited byte", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_, _ = server.Write([]byte("x"))
			awaitReadable(t, raw)
		}, false},
		{"garbage below TLS", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_, _ = io.WriteString(server.NetConn(), "HTTP/1.1 408 Request Timeout\r\n\r\n")
			awaitReadable(t, raw)
		}, false},
		{"a part of a record", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_, _ = server.NetConn().Write([]byte{23, 3, 3, 0, 50})
			awaitReadable(t, raw)
		}, false}, // what it carries cannot be told
		{"a part of the head of a record", func(t *testing.T, _, server *tls.Conn, raw *net.TCPConn) {
			_, _ = server.NetConn().Write([]byte{23})
			awaitReadable(t, raw)
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, o tlsOptions) {
				client, server, raw := tlsPair(t, o)
				c := NewConn(client)
				if !c.Alive() {
					t.Fatal("a new connection is not alive")
				}
				checkQuietExchange(t, c, server)
				tc.do(t, client, server, raw)
				for range 2 { // what was taken from it is not forgotten
					if got := c.Alive(); got != tc.want {
						t.Errorf("alive is %v", got)
					}
				}
				if tc.want {
					_ = client.SetDeadline(time.Time{})
					checkQuietExchange(t, c, server)
				}
			})
		})
	}
}

// TestAliveTLSTickets: TLS 1.3 servers send session tickets when they please. Here
// they come behind the handshake, into the socket, and carry no data.
func TestAliveTLSTickets(t *testing.T) {
	client, server, raw := tlsPair(t, tlsOptions{version: tls.VersionTLS13, clientAuth: tls.RequestClientCert, noteEOF: true})
	awaitReadable(t, raw)
	c := NewConn(client)
	if !c.Alive() {
		t.Error("taken for unsolicited data")
	}
	checkQuietExchange(t, c, server)
}

// TestAliveTLSHiddenSurplus: bytes behind the response, in the same record, are
// in neither our buffer nor the socket.
func TestAliveTLSHiddenSurplus(t *testing.T) {
	eachVersion(t, func(t *testing.T, o tlsOptions) {
		for surplus, want := range map[string]bool{"": true, "x": false} {
			client, server, _ := tlsPair(t, o)
			body := pattern(3 * readBufferSize)
			go func() {
				_, _ = io.WriteString(server, lines(okLine, fmt.Sprintf("Content-Length: %d", len(body))))
				_, _ = io.WriteString(server, body+surplus) // one record
			}()
			c := begun(client)
			if _, _, err := framed(c, "GET"); err != nil {
				t.Fatal(err)
			}
			// Reads of this size go past our buffer, and take no more than
			// the body.
			if got, err := readAll(t, c, 32<<10); got != body || err != nil {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if !c.End() {
				t.Error("the surplus did not hide: this tests nothing")
			}
			if got := c.Alive(); got != want {
				t.Errorf("surplus %q: alive is %v", surplus, got)
			}
		}
	})
}

// TestTLSBodyUntilClose: such a body is complete only where TLS says so, if the
// end of the TCP connection is noted (RFC 9112 §9.8).
func TestTLSBodyUntilClose(t *testing.T) {
	const body = "until close"
	eachTLS(t, func(t *testing.T, o tlsOptions) {
		for name, tc := range map[string]struct {
			end  func(server *tls.Conn) error
			want error
		}{
			"closed":             {(*tls.Conn).Close, nil},
			"closure alert only": {(*tls.Conn).CloseWrite, nil},
			"cut off":            {func(server *tls.Conn) error { return server.NetConn().Close() }, io.ErrUnexpectedEOF},
			"half-closed below":  {func(server *tls.Conn) error { return server.NetConn().(*net.TCPConn).CloseWrite() }, io.ErrUnexpectedEOF},
		} {
			for _, size := range readSizes[3:] {
				client, server, _ := tlsPair(t, o)
				_, _ = io.WriteString(server, lines(okLine)+body)
				_ = tc.end(server)
				c := begun(client)
				if _, _, err := framed(c, "GET"); err != nil {
					t.Fatal(err)
				}
				want := tc.want
				if !o.noteEOF {
					want = nil // crypto/tls does not tell
				}
				if got, err := readAll(t, c, size); got != body || err != want {
					t.Errorf("%s: %q, %v; want %v", name, got, err, want)
				}
			}
		}
	})
}

// TestTLSBodyTruncated: where the length is known, an end is told from a cut
// without help.
func TestTLSBodyTruncated(t *testing.T) {
	eachTLS(t, func(t *testing.T, o tlsOptions) {
		for _, head := range []string{lines(okLine, "Content-Length: 9"), chunkedHead + "9\r\n"} {
			client, server, _ := tlsPair(t, o)
			_, _ = io.WriteString(server, head+"cut")
			_ = server.Close()
			c := begun(client)
			if _, _, err := framed(c, "GET"); err != nil {
				t.Fatal(err)
			}
			if got, err := readAll(t, c, 100); got != "cut" || err != io.ErrUnexpectedEOF {
				t.Errorf("%q: %q, %v", head, got, err)
			}
		}
	})
}

// TestCloseWhileReading: Close ends a read of another goroutine.
func TestCloseWhileReading(t *testing.T) {
	client, server := tcpPair(t)
	c := begun(client)
	done := make(chan error, 1)
	go func() { done <- c.ReadHead(new(Head), testLimit) }()
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if line, err := bufio.NewReader(server).ReadString('\n'); err != nil || !strings.HasPrefix(line, "GET") {
		t.Fatalf("%q, %v", line, err)
	}
	_ = c.Close()
	if err := <-done; err == nil {
		t.Error("the read went on")
	}
}

// TestResetBeforeResponse: a reset comes as it is.
func TestResetBeforeResponse(t *testing.T) {
	client, server := tcpPair(t)
	_ = server.SetLinger(0)
	_ = server.Close()
	if err := begun(client).ReadHead(new(Head), testLimit); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}
