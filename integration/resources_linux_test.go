package integration

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// flood is an origin of a response, or a tunnel, that never ends; sent counts
// what it got rid of.
func flood(t *testing.T, head string) (origin *rawOrigin, sent *atomic.Int64) {
	t.Helper()
	sent = new(atomic.Int64)
	chunk := make([]byte, 64<<10)
	return newRawOrigin(t, func(oc *originConn) {
		if head != "" {
			oc.head()
			oc.send(head)
		}
		for {
			n, err := oc.Conn.Write(chunk)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}), sent
}

// design.md, fact 5: bulk is moved by splice(2), which borrows pipes, in every
// set-up where both sides are plain TCP, however Caddy wraps the client's
// connection; and copied, without any pipe, where they are not.
func TestTunnel_Path(t *testing.T) {
	for _, tc := range []struct {
		name, servers, kind string
		spliced             bool
		site                string
	}{
		{"TLS", "", "h1tls", false, ""},
		{"TLS, protocols h1", "protocols h1\n", "h1tls", false, ""},
		{"TLS behind PROXY protocol", withProxyProtocol, "h1tls", false, ""},
		{"HTTP/2", "", "h2", false, ""},
		{"HTTP/3", "", "h3", false, ""},
		{"plain", "", "h1", true, ""},
		{"protocols h1", "protocols h1\n", "h1", true, ""},
		{"protocols h1 h2", "protocols h1 h2\n", "h1", true, ""},
		{"PROXY protocol", withProxyProtocol, "h1", true, ""},
		{"PROXY protocol, protocols h1", withProxyProtocol + "protocols h1\n", "h1", true, ""},
		{"tracing", "", "h1", true, "tracing\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, m mode) {
				p := start(t, m, setup{servers: tc.servers, site: tc.site})
				origin, _ := flood(t, "")
				tun := p.client(t, tc.kind).open(t, origin.addr)
				buf := make([]byte, 256<<10)
				seen := false
				limit := 8 << 20
				if tc.spliced {
					limit = 256 << 20
				}
				for read := 0; read < limit && !(seen && tc.spliced); {
					n, err := tun.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					read += n
					// A client that reads this slowly leaves bytes where they
					// are on their way.
					time.Sleep(time.Millisecond)
					seen = seen || bytesInPipes()
				}
				if seen != tc.spliced {
					t.Errorf("bytes in pipes: %v, want %v", seen, tc.spliced)
				}
				tun.Abort()
			})
		})
	}
}

// startPipes are the pipes that the process has from whoever started it.
var startPipes = map[string]bool{}

func init() { eachPipe(func(_ int, name string) { startPipes[name] = true }) }

// eachPipe calls f with the pipes among the descriptors of this process, which
// Caddy shares with the test.
func eachPipe(f func(fd int, name string)) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		name, err := os.Readlink("/proc/self/fd/" + e.Name())
		if fd, _ := strconv.Atoi(e.Name()); err == nil && strings.HasPrefix(name, "pipe:") && !startPipes[name] {
			f(fd, name)
		}
	}
}

// bytesInPipes reports whether a pipe holds bytes at this moment.
func bytesInPipes() (yes bool) {
	eachPipe(func(fd int, _ string) {
		if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil && n > 0 {
			yes = true
		}
	})
	return yes
}

// awaitNoPipes waits until no pipe is lent or kept.
func awaitNoPipes(t *testing.T) {
	t.Helper()
	eventually(t, "the pipes to be closed", func() bool {
		n := 0
		eachPipe(func(int, string) { n++ })
		return n == 0
	})
}

// performance.md: an idle tunnel holds two sockets and two goroutines, no pipe
// and no epoll of its own, also after bulk has gone through it. With and without
// access logs at once: it takes its time until the pipes are given up.
func TestTunnel_IdleHoldsNothing(t *testing.T) {
	checkLeaks(t)
	plain := &proxy{plain: freeAddr(t), secure: freeAddr(t), logs: newLogCapture(t), storage: t.TempDir()}
	logged := &proxy{plain: freeAddr(t)}
	load(t, plain.config(t, setup{})+plainSite(logged.plain, "log\n", usual))
	const tunnels, burst = 50, 8 << 20 // for each
	origin := newRawOrigin(t, func(oc *originConn) {
		for {
			b, err := oc.br.ReadByte()
			if err != nil {
				return
			}
			if b == 'b' {
				oc.send(strings.Repeat("x", burst))
			} else {
				oc.send("x")
			}
		}
	})
	clients := []*client{plain.client(t, "h1"), logged.client(t, "h1")}
	for _, c := range clients {
		warm := c.open(t, origin.addr)
		write(t, warm, ".")
		readN(t, warm, 1)
	}
	runtime.GC()
	before, goroutines := descriptors(t), runtime.NumGoroutine()

	for i := range tunnels {
		for _, c := range clients {
			tun := c.open(t, origin.addr)
			if i%10 == 0 {
				write(t, tun, "b")
				readN(t, tun, burst)
			}
			write(t, tun, ".")
			readN(t, tun, 1)
		}
	}
	awaitNoPipes(t)
	// Client and origin have a socket each here as well, and the origin a
	// goroutine.
	var after map[string]int
	eventually(t, "goroutines of handlers to end", func() bool {
		after = descriptors(t)
		return runtime.NumGoroutine()-goroutines <= 3*2*tunnels+2
	})
	if got := after["socket"] - before["socket"]; got != 4*2*tunnels {
		t.Errorf("%d sockets for %d tunnels", got, 2*tunnels)
	}
	for kind, n := range after {
		if kind != "socket" && n > before[kind] {
			t.Errorf("%d more descriptors of kind %s", n-before[kind], kind)
		}
	}
}

// upstream.md §1: a body that the client stops reading stops the read from the
// origin; memory does not grow with the response.
func TestStream_SlowReader(t *testing.T) {
	const size = 1 << 30
	eachMode(t, func(t *testing.T, m mode) {
		p := startUsual(t, m)
		for _, how := range []string{"length", "chunked", "tunnel"} {
			eachClient(t, p, func(t *testing.T, c *client) {
				t.Run(how, func(t *testing.T) {
					head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
					if how == "chunked" {
						head = fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", size)
					}
					if how == "tunnel" {
						head = ""
					}
					origin, sent := flood(t, head)
					var body io.Reader
					if how == "tunnel" {
						tun := c.open(t, origin.addr)
						defer tun.Abort()
						body = tun
					} else {
						r, cancel := withCancel(c.newRequest(t, "GET", origin.url("/"), nil))
						defer cancel()
						resp, err := c.rt.RoundTrip(r)
						if err != nil {
							t.Fatal(err)
						}
						defer resp.Body.Close()
						defer cancel()
						body = resp.Body
					}
					before := heap()
					var read int64
					for range 2 {
						n, err := io.CopyN(io.Discard, body, 4<<20)
						if err != nil {
							t.Fatal(err)
						}
						read += n
						// It is over when nothing moves any more.
						for last := int64(-1); last != sent.Load(); time.Sleep(40 * time.Millisecond) {
							last = sent.Load()
						}
						if ahead := sent.Load() - read; ahead > 64<<20 {
							t.Errorf("the origin is %d MiB ahead of the client", ahead>>20)
						}
					}
					if grown := int64(heap()) - int64(before); grown > 24<<20 {
						t.Errorf("the heap has grown by %d MiB", grown>>20)
					}
				})
			})
		}
	})
}

// After a load of everything, what ends well and what does not, as many
// descriptors and goroutines are there as before.
func TestLeaks_MixedLoad(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "destination_circuit off\ntransport {\n response_header_timeout 100ms\n keepalive 300ms\n pending_timeout 30s\n}\ntunnel {\n idle_timeout 30s\n}\n"})
		echo := newEchoOrigin(t)
		origin := newRawOrigin(t, func(oc *originConn) {
			for {
				switch r := oc.request(); r.target {
				case "/die":
					return
				case "/reset":
					oc.reset()
					return
				case "/silent":
					_ = oc.awaitEnd()
					return
				case "/cut":
					oc.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut")
					return
				case "/early":
					oc.send("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
					return
				case "/malformed":
					oc.send("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
					return
				default:
					oc.ok("ok")
				}
			}
		})
		refused := refusedAddr(t)
		// One round warms up what stays: pools, caches, lazily started loops.
		one := func(c *client) {
			for _, path := range []string{"/", "/die", "/reset", "/silent", "/cut", "/early", "/malformed"} {
				for _, method := range []string{"GET", "POST"} {
					var body io.Reader
					if method == "POST" {
						body = strings.NewReader(strings.Repeat("x", 200_000))
					}
					_, _ = c.try(c.newRequest(t, method, origin.url(path), body))
				}
			}
			for _, url := range []string{"http://" + refused + "/", "http://10.0.0.1/", "http://no-such-name.invalid/"} {
				_, _ = c.try(c.newRequest(t, http.MethodGet, url, nil))
			}
			r, cancel := withCancel(c.newRequest(t, http.MethodGet, origin.url("/silent"), nil))
			cancelled := c.goTry(r)
			cancel()
			await(t, cancelled, "the cancelled request")
			for _, how := range []string{"close", "half-close", "abort"} {
				tun := c.open(t, echo.addr)
				write(t, tun, "ping")
				readN(t, tun, 4)
				switch how {
				case "close":
					tun.Close()
				case "abort":
					tun.Abort()
				default:
					_ = tun.CloseWrite()
					_, _ = io.ReadAll(tun)
					tun.Close()
				}
			}
			_, tun := c.connect(t, refused, "early", nil)
			tun.Close()
		}
		round := func(rounds int) {
			var wg sync.WaitGroup
			for _, kind := range clientKinds {
				for range 2 {
					c := p.client(t, kind)
					wg.Go(func() {
						for range rounds {
							one(c)
						}
						switch {
						case c.h2 != nil:
							c.h2.Close()
						case c.h3 != nil:
							_ = c.h3.CloseWithError(0x100, "")
						default:
							c.h1.CloseIdleConnections()
						}
					})
				}
			}
			wg.Wait()
		}
		settled := func() (int, int) {
			// The pool lets go of its connections after keepalive, and pipes
			// are kept for a while.
			fds, gor := -1, -1
			for range 100 {
				f, g := 0, runtime.NumGoroutine()
				for _, n := range descriptors(t) {
					f += n
				}
				if f == fds && g == gor {
					break
				}
				fds, gor = f, g
				time.Sleep(600 * time.Millisecond)
			}
			return fds, gor
		}
		round(1)
		fds, gor := settled()
		round(3)
		if t.Failed() {
			return
		}
		eventually(t, fmt.Sprintf("the %d descriptors and %d goroutines of the start", fds, gor), func() bool {
			f := 0
			for _, n := range descriptors(t) {
				f += n
			}
			return f <= fds && runtime.NumGoroutine() <= gor
		})
	})
}
