package proxydial

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// serveConnects answers every CONNECT with a 200 and echoes.
func serveConnects(c net.Conn) {
	r := bufio.NewReader(c)
	if _, err := readHead(r); err != nil {
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	_, _ = io.Copy(c, r)
}

func awaitStandby(t *testing.T, d *Dialer, n int) {
	t.Helper()
	eventually(t, "connections dialed ahead", func() bool { return d.Stats().Standby == n })
}

func TestStandby(t *testing.T) {
	var atOnce, most atomic.Int32
	f := listen(t, serveConnects)
	d := newDialer(t, Config{Scheme: HTTP, Dial: func(ctx context.Context) (net.Conn, error) {
		most.Store(max(most.Load(), atOnce.Add(1)))
		defer atOnce.Add(-1)
		return dialTo(f.addr)(ctx)
	}})
	if err := d.Standby(3); err != nil {
		t.Fatal(err)
	}
	if d.Stats().Standby != 0 || f.accepted.Load() != 0 {
		t.Error("dialed before it was said to be up")
	}
	d.SetUp(true)
	awaitStandby(t, d, 3)
	if most.Load() != 1 {
		t.Errorf("%d dials at once", most.Load())
	}
	tn := mustTunnel(t, d)
	if !tn.Reused {
		t.Error("not one of those dialed ahead")
	}
	echo(t, tn, "hello")
	awaitStandby(t, d, 3) // replaced
	nc, _, err := d.DialProxy(testContext(t), Client{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	awaitStandby(t, d, 3)
	d.SetUp(false)
	awaitStandby(t, d, 0)
	d.SetUp(true)
	awaitStandby(t, d, 3)
	if err := d.Standby(1); err != nil {
		t.Fatal(err)
	}
	awaitStandby(t, d, 1)
	d.Close()
	if d.Stats().Standby != 0 {
		t.Error(d.Stats())
	}
}

// TestStandbyDead: those that the proxy has closed are not used.
func TestStandbyDead(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		serve, cfg := serveConnects, Config{Scheme: HTTP}
		if useTLS {
			serve = func(c net.Conn) { serveConnects(tls.Server(c, serverTLS())) }
			cfg = Config{Scheme: HTTPS, TLS: clientTLS()}
		}
		f := listen(t, serve)
		cfg.Dial = dialTo(f.addr)
		cfg.StandbyRetry = time.Millisecond
		d := newDialer(t, cfg)
		_ = d.Standby(2)
		d.SetUp(true)
		awaitStandby(t, d, 2)
		eventually(t, "both connections", func() bool { return f.accepted.Load() == 2 })
		f.closeAll()
		nc, _, err := d.DialProxy(testContext(t), Client{}, 0) // which has nothing to repeat
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(nc, "CONNECT a:1 HTTP/1.1\r\n\r\n")
		if b, err := bufio.NewReader(nc).ReadString('\n'); err != nil || b != "HTTP/1.1 200 OK\r\n" {
			t.Errorf("%q, %v", b, err)
		}
		nc.Close()
		awaitStandby(t, d, 2)
	}
}

// TestStandbyStale: one that dies unseen under its CONNECT is no failure of the
// proxy.
func TestStandbyStale(t *testing.T) {
	for _, scheme := range []Scheme{HTTP, SOCKS5H} {
		var n atomic.Int32
		f := listen(t, func(c net.Conn) {
			r := bufio.NewReader(c)
			if n.Add(1) == 1 {
				_, _ = r.ReadByte() // dies as soon as it is used
				return
			}
			if scheme == HTTP {
				_, _ = readHead(r)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			} else {
				_, _ = r.Discard(3)
				_, _ = io.WriteString(c, "\x05\x00")
				_, _ = r.Discard(len(socksAskName))
				_, _ = io.WriteString(c, socksOK)
			}
			_, _ = io.Copy(c, r)
		})
		d := newDialer(t, Config{Scheme: scheme, Dial: dialTo(f.addr)})
		_ = d.Standby(1)
		d.SetUp(true)
		awaitStandby(t, d, 1)
		eventually(t, "the connection", func() bool { return n.Load() == 1 })
		tn := mustTunnel(t, d)
		echo(t, tn, "hello")
		if tn.Reused {
			t.Errorf("%s: on the dead one", scheme)
		}
	}
}

// TestStandbyAges: who has waited for too long is replaced.
func TestStandbyAges(t *testing.T) {
	f := listen(t, serveConnects)
	d := newDialer(t, Config{Scheme: HTTP, Dial: dialTo(f.addr), IdleTimeout: 20 * time.Millisecond})
	_ = d.Standby(1)
	d.SetUp(true)
	eventually(t, "five generations", func() bool { return f.accepted.Load() >= 5 })
	d.Close()
}

// TestStandbyRetry: after a failure it pauses, and then goes on.
func TestStandbyRetry(t *testing.T) {
	f := listen(t, serveConnects)
	var dials atomic.Int32
	d := newDialer(t, Config{Scheme: HTTP, StandbyRetry: time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
		if dials.Add(1) < 4 {
			return nil, errors.New("no route")
		}
		return dialTo(f.addr)(ctx)
	}})
	_ = d.Standby(1)
	d.SetUp(true)
	awaitStandby(t, d, 1)
	if dials.Load() != 4 {
		t.Error(dials.Load())
	}
}

// TestStandbyClose interrupts a dial.
func TestStandbyClose(t *testing.T) {
	dialing := make(chan struct{})
	d := newDialer(t, Config{Scheme: HTTP, Dial: func(ctx context.Context) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	_ = d.Standby(1)
	d.SetUp(true)
	<-dialing
	d.Close()
	_ = d.Standby(1) // does nothing any more
}

// TestStandbyH2: over HTTP/2, what stands by is a connection with room.
func TestStandbyH2(t *testing.T) {
	p := newGoProxy(t, nil, echoTunnel)
	cfg := h2Config(p.addr)
	cfg.MaxTunnelsPerConn = 2
	d := newDialer(t, cfg)
	_ = d.Standby(1)
	d.SetUp(true)
	eventually(t, "a connection", func() bool { return d.Stats() == Stats{Conns: 1} })
	a := mustTunnel(t, d)
	if !a.Reused {
		t.Error("not on the one that stood by")
	}
	b := mustTunnel(t, d) // fills it
	eventually(t, "another connection", func() bool { return d.Stats() == Stats{Conns: 2, Streams: 2} })
	echo(t, a, "a")
	echo(t, b, "b")
	d.Close()
	eventually(t, "the end of the idle one", func() bool { return d.Stats() == Stats{Conns: 1, Streams: 2} })
}

// Connections dialed ahead that were lost without a trace cost one CONNECT its time,
// and not one CONNECT each.
func TestStandbyLost(t *testing.T) {
	const lost = 3
	var count atomic.Int32
	f := listen(t, func(c net.Conn) {
		if count.Add(1) <= lost {
			_, _ = io.Copy(io.Discard, c)
			return
		}
		serveConnects(c)
	})
	d := newDialer(t, Config{Scheme: HTTP, Dial: dialTo(f.addr)})
	if err := d.Standby(lost); err != nil {
		t.Fatal(err)
	}
	d.SetUp(true)
	awaitStandby(t, d, lost)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.DialTunnel(ctx, testTarget, Client{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	mustTunnel(t, d)
}
