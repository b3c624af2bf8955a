package proxydial

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what must happen; nothing waits for its end in a test that
// passes.
const patience = 20 * time.Second

var testTarget = Target{Host: "origin.test", Port: 443}

// listen serves every connection with serve, in a goroutine of its own, until the
// test ends.
func listen(t testing.TB, serve func(net.Conn)) *fakeProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeProxy{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.accepted.Add(1)
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			all.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.closeAll()
		all.Wait()
	})
	return f
}

type fakeProxy struct {
	addr     string
	accepted atomic.Int32
	mu       sync.Mutex
	conns    []net.Conn
}

func (f *fakeProxy) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

func dialTo(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// newDialer makes a Dialer that is closed when the test ends.
func newDialer(t testing.TB, cfg Config) *Dialer {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// mustTunnel opens a tunnel that is closed when the test ends.
func mustTunnel(t testing.TB, d *Dialer) *Tunnel {
	t.Helper()
	tn, err := d.DialTunnel(testContext(t), testTarget, Client{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tn.Conn.Close() })
	_ = tn.Conn.SetDeadline(time.Now().Add(patience))
	return tn
}

func wantError(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v (%T) is no *Error", err, err)
	}
	return e
}

// readHead reads a request head as it came.
func readHead(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String(), err
		}
	}
}

func echo(t testing.TB, tn *Tunnel, text string) {
	t.Helper()
	if _, err := io.WriteString(tn.Conn, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	r := io.MultiReader(strings.NewReader(string(tn.Early)), tn.Conn)
	if _, err := io.ReadFull(r, b); err != nil || string(b) != text {
		t.Fatalf("echo of %q: %q, %v", text, b, err)
	}
}

// echoOrigin is a destination that sends back what it gets, and ends when its
// client does.
func echoOrigin(t testing.TB) Target {
	f := listen(t, func(c net.Conn) {
		_, _ = io.Copy(c, c)
		_ = c.(*net.TCPConn).CloseWrite()
	})
	a := netAddrPort(f.addr)
	return Target{Host: a.Addr().String(), Port: a.Port(), Addr: a.Addr()}
}

// eventually waits for what has no event.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

var testCertificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"proxy.test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	parsed, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
})

func serverTLS(protocols ...string) *tls.Config {
	cert, _ := testCertificate()
	return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols}
}

func clientTLS() *tls.Config {
	_, pool := testCertificate()
	return &tls.Config{RootCAs: pool, ServerName: "proxy.test"}
}
