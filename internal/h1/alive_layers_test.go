//go:build unix

package h1

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// layered is a connection made of several, with both ends of each layer: the lowest
// first.
type layered struct {
	raw            rawConn // the client's socket
	client, server []net.Conn
}

func (l *layered) top() (client, server net.Conn) {
	n := len(l.client) - 1
	return l.client[n], l.server[n]
}

// overSocket begins with a pair of sockets.
func overSocket(t *testing.T, network string) *layered {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return &layered{client.(rawConn), []net.Conn{client}, []net.Conn{server}}
}

// tls puts TLS over what there is. With tickets, those of TLS 1.3 come behind the
// handshake.
func (l *layered) tls(t *testing.T, tickets bool) *layered {
	t.Helper()
	below, serverBelow := l.top()
	client := tls.Client(NoteEOF(below), &tls.Config{
		InsecureSkipVerify: true, // the certificate is not what is tested
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	})
	cfg := &tls.Config{Certificates: []tls.Certificate{testCertificate()}, SessionTicketsDisabled: !tickets}
	if tickets {
		cfg.ClientAuth = tls.RequestClientCert
	}
	server := tls.Server(serverBelow, cfg)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.client, l.server = append(l.client, client), append(l.server, server)
	return l
}

// early puts the connection behind bytes that were read already, none of which are
// left.
func (l *layered) early() *layered {
	client, server := l.top()
	l.client, l.server = append(l.client, WithEarly(client, nil)), append(l.server, server)
	return l
}

// wrapped hides what the connection is.
func (l *layered) wrapped() *layered {
	client, server := l.top()
	l.client, l.server = append(l.client, struct{ net.Conn }{client}), append(l.server, server)
	return l
}

// eachLayered runs f with all that a connection to an origin or to an upstream is
// made of. known is whether it can be looked at.
func eachLayered(t *testing.T, f func(t *testing.T, build func(*testing.T) *layered, known bool)) {
	tcp := func(t *testing.T) *layered { return overSocket(t, "tcp") }
	unix := func(t *testing.T) *layered { return overSocket(t, "unix") }
	for _, tc := range []struct {
		name  string
		build func(t *testing.T) *layered
		known bool
	}{
		{"TCP", tcp, true},
		{"unix", unix, true},
		{"TLS", func(t *testing.T) *layered { return tcp(t).tls(t, false) }, true},
		{"TLS over unix", func(t *testing.T) *layered { return unix(t).tls(t, false) }, true},
		{"TLS in TLS", func(t *testing.T) *layered { return tcp(t).tls(t, false).tls(t, false) }, true},
		{"TLS in TLS in TLS", func(t *testing.T) *layered { return tcp(t).tls(t, false).tls(t, false).tls(t, false) }, true},
		{"early", func(t *testing.T) *layered { return tcp(t).early() }, true},
		{"TLS over early", func(t *testing.T) *layered { return tcp(t).early().tls(t, false) }, true},
		{"TLS over early over TLS", func(t *testing.T) *layered { return tcp(t).tls(t, false).early().tls(t, false) }, true},
		{"wrapped", func(t *testing.T) *layered { return tcp(t).wrapped() }, false},
		{"early over wrapped", func(t *testing.T) *layered { return tcp(t).wrapped().early() }, false},
		{"TLS over wrapped", func(t *testing.T) *layered { return tcp(t).wrapped().tls(t, false) }, false},
		{"TLS in TLS over wrapped", func(t *testing.T) *layered { return tcp(t).wrapped().tls(t, false).tls(t, false) }, false},
		{"TLS over wrapped early", func(t *testing.T) *layered { return tcp(t).wrapped().early().tls(t, false) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) { f(t, tc.build, tc.known) })
	}
}

// TestAliveLayers: what has come is seen through every layer, at whichever it ends;
// a connection that cannot be looked at is not reused.
func TestAliveLayers(t *testing.T) {
	eachLayered(t, func(t *testing.T, build func(*testing.T) *layered, known bool) {
		t.Run("quiet", func(t *testing.T) {
			l := build(t)
			client, server := l.top()
			c := NewConn(client)
			for range 2 {
				_ = client.SetReadDeadline(longAgo)
				if got := c.Alive(); got != known {
					t.Fatalf("alive is %v", got)
				}
				_ = client.SetReadDeadline(time.Time{})
				checkQuietExchange(t, c, server)
			}
		})
		for layer := range len(build(t).server) {
			for name, do := range map[string]func(net.Conn) error{
				"byte":  func(server net.Conn) error { _, err := io.WriteString(server, "H"); return err },
				"close": net.Conn.Close,
			} {
				t.Run(name, func(t *testing.T) {
					l := build(t)
					client, server := l.top()
					c := NewConn(client)
					checkQuietExchange(t, c, server)
					if err := do(l.server[layer]); err != nil {
						t.Fatal(err)
					}
					awaitReadable(t, l.raw)
					_ = client.SetReadDeadline(longAgo)
					for range 2 {
						if c.Alive() {
							t.Error("is alive")
						}
					}
				})
			}
		}
	})
}

// TestSilentLayers: a new connection that has said something is found out; one that
// cannot be looked at carries this one exchange.
func TestSilentLayers(t *testing.T) {
	eachLayered(t, func(t *testing.T, build func(*testing.T) *layered, known bool) {
		for name, tc := range map[string]struct {
			do   func(net.Conn) error
			want error
		}{
			"quiet": {func(net.Conn) error { return nil }, nil},
			"byte":  {func(server net.Conn) error { _, err := io.WriteString(server, "H"); return err }, errUnsolicited},
			"close": {net.Conn.Close, ErrClosedBeforeResponse},
		} {
			t.Run(name, func(t *testing.T) {
				l := build(t)
				client, server := l.top()
				if err := tc.do(server); err != nil {
					t.Fatal(err)
				}
				want := tc.want
				if !known {
					want = nil
				}
				if tc.want != nil {
					awaitReadable(t, l.raw)
				}
				c := begun(client)
				defer c.End()
				if err := c.Silent(); err != want {
					t.Errorf("got %v, want %v", err, want)
				}
			})
		}
	})
}

// TestAliveTicketsInLayers: session tickets are no data in a layer either, and what
// comes behind them is seen.
func TestAliveTicketsInLayers(t *testing.T) {
	l := overSocket(t, "tcp").tls(t, true).tls(t, true)
	client, server := l.top()
	awaitReadable(t, l.raw)
	c := NewConn(client)
	if !c.Alive() {
		t.Error("not alive")
	}
	checkQuietExchange(t, c, server)
	if _, err := io.WriteString(server, "H"); err != nil {
		t.Fatal(err)
	}
	awaitReadable(t, l.raw)
	if c.Alive() {
		t.Error("a byte behind them is not seen")
	}
}

// TestEarly: early bytes of a new connection are unsolicited, as are those on the
// wire.
func TestEarly(t *testing.T) {
	client, _ := overSocket(t, "tcp").top()
	c := begun(WithEarly(client, []byte("HTTP")))
	defer c.End()
	if err := c.Silent(); err != errUnsolicited {
		t.Error(err)
	}
	early := WithEarly(client, []byte("HTTP"))
	b := make([]byte, 3)
	for _, want := range []string{"HTT", "P"} {
		if n, err := early.Read(b); string(b[:n]) != want || err != nil {
			t.Errorf("%q, %v; want %q", b[:n], err, want)
		}
	}
}
