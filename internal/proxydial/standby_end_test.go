package proxydial

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// standbyOf keeps n connections to a proxy that does with each what script says, in the
// time of synctest. It returns how many were dialed, until the test ends.
func standbyOf(t *testing.T, cfg Config, n int, script func(server net.Conn)) (d *Dialer, dialed *atomic.Int32) {
	dialed = new(atomic.Int32)
	cfg.Dial = func(context.Context) (net.Conn, error) {
		dialed.Add(1)
		client, server := net.Pipe()
		t.Cleanup(func() { server.Close() })
		go func() {
			defer server.Close()
			script(server)
		}()
		return client, nil
	}
	d = newDialer(t, cfg)
	if err := d.Standby(n); err != nil {
		t.Fatal(err)
	}
	d.SetUp(true)
	return d, dialed
}

// quietly reads until the connection ends, for at most so long.
func quietly(c net.Conn, d time.Duration) {
	_ = c.SetReadDeadline(time.Now().Add(d))
	_, _ = io.Copy(io.Discard, c)
}

// A connection dialed ahead that the proxy ends is noticed, and replaced.
func TestStandbyEndIsNoticed(t *testing.T) {
	for _, scheme := range []Scheme{HTTP, HTTPS, SOCKS5H} {
		t.Run(string(scheme), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := simConfig()
				cfg.Scheme, cfg.DisableHTTP2 = scheme, true
				if scheme != HTTPS {
					cfg.TLS = nil
				}
				d, dialed := standbyOf(t, cfg, 2, func(c net.Conn) {
					if scheme == HTTPS {
						tc := tls.Server(c, serverTLS())
						_ = tc.Handshake()
						c = tc
					}
					quietly(c, 5*time.Second)
				})
				synctest.Wait()
				for range 3 {
					time.Sleep(5*time.Second + time.Millisecond)
					synctest.Wait()
					if n := d.Stats().Standby; n != 2 {
						t.Fatalf("%d connections stand by, of %d that were dialed", n, dialed.Load())
					}
				}
				if n := dialed.Load(); n != 8 {
					t.Errorf("%d connections were dialed, want 8", n)
				}
			})
		})
	}
}

// What a proxy says unasked makes a connection useless.
func TestStandbyUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dialed := standbyOf(t, Config{Scheme: HTTP}, 1, func(c net.Conn) {
			quietly(c, 5*time.Second)
			_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\n\r\n")
			quietly(c, time.Hour)
		})
		time.Sleep(7 * time.Second)
		if n := dialed.Load(); n != 2 || d.Stats().Standby != 1 {
			t.Errorf("%d were dialed, %d stand by; want 2 and 1", n, d.Stats().Standby)
		}
	})
}

// A proxy that ends young connections is dialed ahead ever less often, as one that cannot
// be dialed, and at once again when it is said to be up again.
func TestStandbyBacksOff(t *testing.T) {
	settings := func(c net.Conn) *http2.Framer {
		tc := tls.Server(c, serverTLS("h2"))
		if _, err := io.ReadFull(tc, make([]byte, len(http2.ClientPreface))); err != nil {
			return nil
		}
		f := http2.NewFramer(tc, tc)
		_ = f.WriteSettings()
		quietly(tc, 5*time.Millisecond)
		return f
	}
	for _, tc := range []struct {
		name   string
		h2     bool
		script func(c net.Conn)
	}{
		{"closes", false, func(c net.Conn) { quietly(c, 100*time.Millisecond) }},
		{"no settings", true, func(c net.Conn) {}},
		{"closes behind its settings", true, func(c net.Conn) { settings(c) }},
		{"GOAWAY behind its settings", true, func(c net.Conn) {
			if f := settings(c); f != nil {
				_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			}
			quietly(c, time.Hour)
		}},
		{"takes no streams any more", true, func(c net.Conn) {
			if f := settings(c); f != nil {
				_ = f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
			}
			quietly(c, time.Hour)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := Config{Scheme: HTTP}
				if tc.h2 {
					cfg = simConfig()
				}
				d, dialed := standbyOf(t, cfg, 3, tc.script)
				time.Sleep(2 * time.Minute)
				// 3 may be dialed at once, each time, after 1, 2, 4, 8, 16, 30, 30, 30 s.
				if n := dialed.Load(); n < 8 || n > 24 {
					t.Errorf("dialed %d times in two minutes; want 8 to 24", n)
				}
				before := dialed.Load()
				d.SetUp(false)
				d.SetUp(true)
				synctest.Wait()
				if dialed.Load() == before {
					t.Error("a proxy that has come back is not dialed")
				}
			})
		})
	}
}

// Who takes a connection that stands by gets it whole, although somebody watches it.
func TestStandbyTaken(t *testing.T) {
	for _, useTLS := range []bool{false, true} {
		serve, cfg := serveConnects, Config{Scheme: HTTP}
		if useTLS {
			serve = func(c net.Conn) { serveConnects(tls.Server(c, serverTLS())) }
			cfg = Config{Scheme: HTTPS, TLS: clientTLS(), DisableHTTP2: true}
		}
		f := listen(t, serve)
		cfg.Dial = dialTo(f.addr)
		d := newDialer(t, cfg)
		_ = d.Standby(4)
		d.SetUp(true)
		awaitStandby(t, d, 4)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				tn, err := d.DialTunnel(testContext(t), testTarget, Client{})
				if err != nil {
					t.Error(err)
					return
				}
				defer tn.Conn.Close()
				if !tn.Reused {
					t.Error("not one of those dialed ahead")
				}
				echo(t, tn, "hello")
			})
		}
		all.Wait()
		awaitStandby(t, d, 4)
	}
}
