package dial

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// tlsOrigin serves TLS on 127.0.0.1, with a certificate for origin.test and
// that address. The pool trusts it.
func tlsOrigin(t *testing.T, change func(*tls.Config)) (uint16, *x509.CertPool) {
	t.Helper()
	return tlsOriginAt(t, change, "127.0.0.1")
}

func tlsOriginAt(t *testing.T, change func(*tls.Config), hosts ...string) (uint16, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, fixture.CertTemplate(), fixture.CertTemplate(), &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	cfg := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	if change != nil {
		change(cfg)
	}
	return serveConnsAt(t, func(conn net.Conn) {
		tc := tls.Server(conn, cfg)
		if tc.Handshake() == nil {
			io.WriteString(tc, tc.ConnectionState().ServerName+"\n")
			io.Copy(io.Discard, tc)
		}
	}, hosts...), pool
}

func TestDialTLS(t *testing.T) {
	noLeaks(t)
	port, trusted := tlsOrigin(t, nil)
	for _, dest := range []target.Target{
		{Host: "origin.test", Port: port},
		fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port)),
	} {
		d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
		d.TLSConfig = &tls.Config{RootCAs: trusted}
		conn, err := d.Dial(t.Context(), dest, true)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		wantName := dest.Host
		if dest.IsAddr() {
			wantName = "" // RFC 6066 §3: literal addresses are not sent
		}
		if err != nil || string(buf[:n]) != wantName+"\n" {
			t.Errorf("server name %q, %v", buf[:n], err)
		}
		if d.TLSConfig.ServerName != "" {
			t.Error("the shared TLS configuration was changed")
		}
		conn.Close()
	}
}

func TestDialTLSErrors(t *testing.T) {
	noLeaks(t)
	good, trusted := tlsOrigin(t, nil)
	trust := &tls.Config{RootCAs: trusted}
	tls13, _ := tlsOrigin(t, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
	wantsCert, wantsTrusted := tlsOrigin(t, func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
		c.MaxVersion = tls.VersionTLS12 // in TLS 1.3 the handshake ends before the refusal
	})
	clear := serveConns(t, func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
		silent(conn)
	})
	hangsUp := serveConns(t, func(conn net.Conn) { conn.Read(make([]byte, 1)) })
	quiet := serveConns(t, silent)
	for _, tc := range []struct {
		name    string
		host    string
		port    uint16
		config  *tls.Config
		timeout time.Duration
		want    *failure.Failure
	}{
		{"unknown authority", "origin.test", good, new(tls.Config), 0, failure.Certificate},
		{"another name", "other.test", good, trust, 0, failure.Certificate},
		{"plain text", "origin.test", clear, trust, 0, failure.TLS},
		{"end of connection", "origin.test", hangsUp, trust, 0, failure.TLS},
		{"alert about versions", "origin.test", tls13, &tls.Config{MaxVersion: tls.VersionTLS12}, 0, failure.TLSAlert},
		{"alert about a certificate", "origin.test", wantsCert, &tls.Config{RootCAs: wantsTrusted}, 0, failure.TLSAlert},
		{"timeout", "origin.test", quiet, trust, 20 * time.Millisecond, failure.TLSTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
			d.TLSConfig = tc.config
			if tc.timeout > 0 {
				d.TLSTimeout = tc.timeout
			}
			conn, err := d.Dial(t.Context(), target.Target{Host: tc.host, Port: tc.port}, true)
			if err == nil {
				conn.Close()
				t.Fatal("connected")
			}
			if f := failure.Of(err); f != tc.want {
				t.Errorf("%v is %d %s, want %d %s", err, f.Status, f.Type, tc.want.Status, tc.want.Type)
			}
			if !strings.HasPrefix(err.Error(), "TLS handshake: ") {
				t.Errorf("%v", err)
			}
		})
	}
}

// upstream.md §1, "failure before any byte was sent": where TLS fails at one address
// of a destination, another one is tried, and the next dial begins there. Where it
// fails at all of them, that says nothing about any address.
func TestDialTLSOtherAddress(t *testing.T) {
	noLeaks(t)
	_, unrelated := tlsOrigin(t, nil)
	hosts := []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"}
	for _, tc := range []struct {
		name  string
		fails func(net.Conn)
	}{
		{"end of connection", func(c net.Conn) { c.Close() }},
		{"alert", func(net.Conn) {}},
		{"certificate", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			var healthy string // guarded by mu
			var asked []string // guarded by mu: the addresses, in order
			port, trusted := tlsOriginAt(t, func(c *tls.Config) {
				c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
					host, _, _ := net.SplitHostPort(hello.Conn.LocalAddr().String())
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, host)
					if host == healthy || tc.fails == nil {
						return nil, nil
					}
					tc.fails(hello.Conn)
					return nil, errors.New("not here")
				}
			}, hosts...)
			resolve := (&answers{list: [][]netip.Addr{addrs(hosts...)}}).resolve
			d := newDialer(t, resolve, "deny 127.0.0.2/32", "allow 127.0.0.0/8")
			d.TLSConfig = &tls.Config{RootCAs: trusted}
			try := func(at string, want ...string) {
				t.Helper()
				mu.Lock()
				healthy, asked = at, nil
				mu.Unlock()
				conn, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, true)
				switch {
				case err == nil:
					conn.Close()
					if at == "" {
						t.Error("connected")
					}
				case at != "" || !strings.HasPrefix(err.Error(), "TLS handshake: "):
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !slices.Equal(asked, want) {
					t.Errorf("asked %v, want %v", asked, want)
				}
			}
			if tc.fails != nil {
				try("127.0.0.3", "127.0.0.1", "127.0.0.3")
				try("127.0.0.3", "127.0.0.3")
				d.forget(allAtOnce(resolve)) // the address that failed as well
			} else {
				d.TLSConfig.RootCAs = unrelated
			}
			for range 2 {
				try("", "127.0.0.1", "127.0.0.3", "127.0.0.4") // and no more of them
			}
		})
	}
}

// A client that leaves during the handshake is nobody's failure.
func TestDialTLSCanceled(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	port := serveConns(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1)) // the handshake has begun
		cancel()
		silent(conn)
	})
	d := newDialer(t, nil, "allow 127.0.0.0/8")
	_, err := d.Dial(ctx, fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port)), true)
	if err == nil || failure.Of(err) != failure.Canceled {
		t.Errorf("%v", err)
	}
}

// Users whose addresses are kept apart have TLS sessions of their own, and so has whoever
// leaves in another way: a session that is resumed tells that it is the same client.
func TestDialTLS_Sessions(t *testing.T) {
	noLeaks(t)
	port, trusted := tlsOrigin(t, nil)
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1")}}).resolve, "allow 127.0.0.0/8")
	d.TLSConfig = &tls.Config{RootCAs: trusted, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	d.DialAddr = func(ctx context.Context, a netip.AddrPort, _ Source) (*net.TCPConn, error) {
		return ToAddr(ctx, a, Source{}) // this machine may have one address only
	}
	route, err := d.Leaving("", []string{"127.0.0.4"}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	byUser, err := d.Leaving("", []string{"127.0.0.2", "127.0.0.3"}, PickUserHash, "")
	if err != nil {
		t.Fatal(err)
	}
	dest := fixture.Target(t, fmt.Sprintf("127.0.0.1:%d", port))
	resumed := func(d *Dialer, ctx context.Context) bool {
		t.Helper()
		conn, err := d.Dial(ctx, dest, true)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 64)); err != nil { // behind the ticket
			t.Fatal(err)
		}
		return conn.(*tls.Conn).ConnectionState().DidResume
	}
	handshake := func(d *Dialer, ctx context.Context) bool {
		t.Helper()
		raw, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := d.Handshake(ctx, raw, dest.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		return conn.(*tls.Conn).ConnectionState().DidResume
	}
	for _, tc := range []struct {
		name string
		dial func() bool
	}{
		{"the transport's own", func() bool { return resumed(d, t.Context()) }},
		{"a route with an address of its own", func() bool { return resumed(route, t.Context()) }},
		{"a user", func() bool { return resumed(byUser, WithSlot(t.Context(), 1)) }},
		{"another user", func() bool { return resumed(byUser, WithSlot(t.Context(), 2)) }},
		{"through a member", func() bool { return handshake(d, WithVia(t.Context(), 7)) }},
		{"a user through it", func() bool { return handshake(d, WithSlot(WithVia(t.Context(), 7), 1)) }},
		{"through another", func() bool { return handshake(d, WithVia(t.Context(), 8)) }},
	} {
		if tc.dial() {
			t.Errorf("%s: a session of others was resumed", tc.name)
		}
		if !tc.dial() {
			t.Errorf("%s: its own session was not resumed", tc.name)
		}
	}
}
