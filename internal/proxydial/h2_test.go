package proxydial

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-egress/egress/internal/h1"
)

// goProxy is Go's own HTTP/2 server as a proxy.
type goProxy struct {
	*fakeProxy
	server *http.Server
	// ends gets how each tunnel's reading ended.
	ends chan error
}

// newGoProxy starts a proxy whose tunnels are served by tunnel.
func newGoProxy(t testing.TB, h2 *http.HTTP2Config, answer func(w http.ResponseWriter, r *http.Request)) *goProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &goProxy{fakeProxy: &fakeProxy{addr: l.Addr().String()}, ends: make(chan error, 1000)}
	p.server = &http.Server{
		TLSConfig: serverTLS("h2", "http/1.1"),
		HTTP2:     h2,
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler:   http.HandlerFunc(answer),
		ConnState: func(c net.Conn, s http.ConnState) {
			if s == http.StateNew {
				p.accepted.Add(1)
			}
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.server.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		p.server.Close()
		<-done
	})
	return p
}

// echoTunnel sends back what comes, and ends when it does.
func echoTunnel(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(200)
	rc := http.NewResponseController(w)
	_ = rc.Flush()
	b := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(b)
		if n > 0 {
			if _, werr := w.Write(b[:n]); werr != nil {
				return
			}
			_ = rc.Flush()
		}
		if err != nil {
			return
		}
	}
}

func h2Config(addr string) Config {
	return Config{Scheme: HTTPS, TLS: clientTLS(), Dial: dialTo(addr)}
}

func TestH2Tunnel(t *testing.T) {
	requests := make(chan *http.Request, 1)
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.Header().Set("Proxy-Status", "near")
		echoTunnel(w, r)
	})
	cfg := h2Config(p.addr)
	cfg.Authenticate, cfg.User, cfg.Password = true, "u", "p"
	cfg.Header = []h1.Field{{Name: "X-Zone", Value: "de"}}
	d := newDialer(t, cfg)
	tn := mustTunnel(t, d)
	r := <-requests
	if r.Method != http.MethodConnect || r.Host != "origin.test:443" || r.Header.Get("Proxy-Authorization") != "Basic dTpw" ||
		r.Header.Get("X-Zone") != "de" || len(r.Header) != 2 {
		t.Errorf("%s %s %v", r.Method, r.Host, r.Header)
	}
	if tn.Protocol != "h2" || tn.Reused || tn.Reply.Status != 200 || tn.Reply.ProxyStatus != "near" {
		t.Errorf("%+v", tn)
	}
	echo(t, tn, "hello")
	// Our end does not end the other direction.
	if err := tn.Conn.(*stream).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := tn.Conn.Write([]byte("x")); err == nil {
		t.Error("a write after CloseWrite")
	}
	if n, err := tn.Conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Error(n, err)
	}
	eventually(t, "the slot", func() bool { return d.Stats() == Stats{Conns: 1} })
	second := mustTunnel(t, d)
	<-requests
	if !second.Reused || p.accepted.Load() != 1 {
		t.Error("a second connection")
	}
}

// TestH2HalfCloseByTheOrigin: the other end first; the upload goes on.
func TestH2HalfCloseByTheOrigin(t *testing.T) {
	// A Go handler cannot end its side and read on.
	rest := make(chan string, 1)
	f := h2Fake(t, func(p *h2Peer) {
		id := p.acceptStream()
		p.reply(id, "200")
		_ = p.WriteData(id, true, []byte("bye"))
		var got []byte
		for {
			d, ok := p.next().(*http2.DataFrame)
			if !ok {
				continue
			}
			got = append(got, d.Data()...)
			if d.StreamEnded() {
				break
			}
		}
		rest <- string(got)
	})
	tn := mustTunnel(t, newDialer(t, h2Config(f.addr)))
	if b, err := io.ReadAll(tn.Conn); err != nil || string(b) != "bye" {
		t.Fatalf("%q, %v", b, err)
	}
	_, _ = io.WriteString(tn.Conn, "still ")
	_, _ = io.WriteString(tn.Conn, "here")
	_ = tn.Conn.(*stream).CloseWrite()
	if got := <-rest; got != "still here" {
		t.Errorf("the proxy read %q", got)
	}
}

// TestH2FullDuplex: megabytes both ways at once, through windows smaller than
// that, on several tunnels of one connection; bytes exact.
func TestH2FullDuplex(t *testing.T) {
	p := newGoProxy(t, &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10, MaxReceiveBufferPerConnection: 128 << 10}, echoTunnel)
	cfg := h2Config(p.addr)
	cfg.StreamWindow = 20_000
	d := newDialer(t, cfg)
	var all sync.WaitGroup
	var tunnels []*Tunnel
	for range 4 { // before the first is busy, so that all share a connection
		tunnels = append(tunnels, mustTunnel(t, d))
	}
	for i, tn := range tunnels {
		all.Go(func() {
			sent := make([]byte, 3<<20+i)
			src := rand.NewChaCha8([32]byte{byte(i)})
			_, _ = src.Read(sent)
			go func() {
				for rest := sent; len(rest) > 0; {
					n := min(len(rest), 1+rand.IntN(50_000))
					if _, err := tn.Conn.Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				_ = tn.Conn.(*stream).CloseWrite()
			}()
			got, err := io.ReadAll(tn.Conn)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("tunnel %d: %d of %d bytes, %v", i, len(got), len(sent), err)
			}
		})
	}
	all.Wait()
	if n := p.accepted.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	eventually(t, "all slots", func() bool { return d.Stats() == Stats{Conns: 1} })
}

// TestH2SlowReader: who does not read holds up itself alone, and what waits for
// it is bounded by its window.
func TestH2SlowReader(t *testing.T) {
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		b := make([]byte, 64<<10)
		for {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})
	cfg := h2Config(p.addr)
	cfg.StreamWindow = 100_000
	d := newDialer(t, cfg)
	slow, fast := mustTunnel(t, d), mustTunnel(t, d)
	if _, err := io.CopyN(io.Discard, fast.Conn, 40<<20); err != nil { // more than the connection's window
		t.Fatal(err)
	}
	s := slow.Conn.(*stream)
	s.c.mu.Lock()
	waiting, held := s.received.n, len(s.received.chunks)*chunkSize
	s.c.mu.Unlock()
	if waiting > 100_000 || held > 100_000+2*chunkSize {
		t.Errorf("%d bytes wait in %d", waiting, held)
	}
	if _, err := io.CopyN(io.Discard, slow.Conn, 1<<20); err != nil {
		t.Fatal(err)
	}
	if p.accepted.Load() != 1 {
		t.Error("not on one connection")
	}
}

// TestH2Refusal: a refused CONNECT ends its stream, not its connection.
func TestH2Refusal(t *testing.T) {
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "forbidden:443":
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "no")
		case "login:443":
			w.Header().Set("Proxy-Authenticate", "Basic")
			w.WriteHeader(407)
		case "nowhere:443":
			w.Header().Set("Proxy-Status", "p; error=dns_error")
			w.WriteHeader(502)
		case "busy:443":
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(503)
		default:
			echoTunnel(w, r)
		}
	})
	d := newDialer(t, h2Config(p.addr))
	tn := mustTunnel(t, d)
	for host, want := range map[string]struct {
		text     string
		stage    Stage
		bodyLess bool
	}{
		"forbidden": {"reply: status 403", StageReply, false},
		"login":     {"auth: status 407", StageAuth, true},
		"nowhere":   {"reply: status 502 (dns_error)", StageReply, true},
		"busy":      {"reply: status 503", StageReply, true},
	} {
		_, err := d.DialTunnel(testContext(t), Target{Host: host, Port: 443}, Client{})
		e := wantError(t, err)
		r, ok := errors.AsType[*ReplyError](err)
		if err.Error() != "upstream proxy: "+want.text || e.Stage != want.stage || !e.Sent || e.Retryable || !ok || r.BodyLess != want.bodyLess {
			t.Errorf("%v (%+v), want %s", err, e, want.text)
		}
	}
	echo(t, tn, "still here")
	if p.accepted.Load() != 1 {
		t.Error("another connection")
	}
	eventually(t, "the slots", func() bool { return d.Stats() == Stats{Conns: 1, Streams: 1} })
}

// TestH2StreamLimit is scenario 14: a limit of 2 streams and 5 tunnels make 3
// connections, one after the other or all at once.
func TestH2StreamLimit(t *testing.T) {
	for _, tc := range []struct {
		name        string
		peer, ours  int
		concurrent  bool
		connections int32
	}{
		{"the peer's limit", 2, 0, false, 3},
		{"the peer's limit, at once", 2, 0, true, 3},
		{"our limit", 100, 2, false, 3},
		{"our limit, at once", 100, 2, true, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newGoProxy(t, &http.HTTP2Config{MaxConcurrentStreams: tc.peer}, echoTunnel)
			cfg := h2Config(p.addr)
			cfg.MaxTunnelsPerConn = tc.ours
			d := newDialer(t, cfg)
			tunnels := make([]*Tunnel, 5)
			var all sync.WaitGroup
			for i := range tunnels {
				open := func() {
					var err error
					if tunnels[i], err = d.DialTunnel(testContext(t), testTarget, Client{}); err != nil {
						t.Error(err)
					}
				}
				if tc.concurrent {
					all.Go(open)
				} else {
					open()
				}
			}
			all.Wait()
			if t.Failed() {
				return
			}
			if got := d.Stats(); got != (Stats{Conns: int(tc.connections), Streams: 5}) {
				t.Errorf("%+v", got)
			}
			if n := p.accepted.Load(); n != tc.connections {
				t.Errorf("%d connections, want %d", n, tc.connections)
			}
			for _, tn := range tunnels {
				echo(t, tn, "hello")
				tn.Conn.Close()
			}
			eventually(t, "all slots", func() bool { return d.Stats().Streams == 0 })
		})
	}
}

// TestH2CancelResetsOneStream: the end of a context, and Abort, reset one stream.
func TestH2CancelResetsOneStream(t *testing.T) {
	ended := make(chan error, 1)
	came := make(chan struct{})
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "silent:443":
			close(came)
			<-r.Context().Done()
			ended <- r.Context().Err()
		case "abort:443":
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		default:
			echoTunnel(w, r)
		}
	})
	d := newDialer(t, h2Config(p.addr))
	tn := mustTunnel(t, d)
	ctx, cancel := context.WithCancel(testContext(t))
	go func() {
		<-came
		cancel()
	}()
	_, err := d.DialTunnel(ctx, Target{Host: "silent", Port: 443}, Client{})
	if e := wantError(t, err); !errors.Is(err, context.Canceled) || !e.Sent || e.Stage != StageReply {
		t.Error(err)
	}
	<-ended
	aborted, err := d.DialTunnel(testContext(t), Target{Host: "abort", Port: 443}, Client{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(aborted.Conn, "x")
	aborted.Conn.(*stream).Abort()
	if err := <-ended; err == nil {
		t.Error("an Abort looks like an end")
	}
	echo(t, tn, "still here")
	if got := d.Stats(); got != (Stats{Conns: 1, Streams: 1}) {
		t.Errorf("%+v", got)
	}
}

// TestH2ReplyTimeout: no answer in time ends the stream only.
func TestH2ReplyTimeout(t *testing.T) {
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "silent:443" {
			<-r.Context().Done()
			return
		}
		echoTunnel(w, r)
	})
	cfg := h2Config(p.addr)
	d := newDialer(t, cfg)
	tn := mustTunnel(t, d)
	d.cfg.ReplyTimeout = time.Millisecond
	_, err := d.DialTunnel(testContext(t), Target{Host: "silent", Port: 443}, Client{})
	if e := wantError(t, err); !e.Timeout() || e.Stage != StageReply {
		t.Error(err)
	}
	echo(t, tn, "hello")
}

func TestH2Deadlines(t *testing.T) {
	p := newGoProxy(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // reads nothing
	})
	tn := mustTunnel(t, newDialer(t, h2Config(p.addr)))
	_ = tn.Conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := tn.Conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	_ = tn.Conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := tn.Conn.Write(make([]byte, 8<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 8<<20 {
		t.Error(n, err)
	}
	// They can be taken back, and Close wakes who waits.
	_ = tn.Conn.SetDeadline(time.Time{})
	errs := make(chan error, 2)
	go func() { _, err := tn.Conn.Read(make([]byte, 1)); errs <- err }()
	go func() { _, err := tn.Conn.Write(make([]byte, 8<<20)); errs <- err }()
	s := tn.Conn.(*stream)
	eventually(t, "a writer that waits", func() bool {
		s.c.mu.Lock()
		defer s.c.mu.Unlock()
		return s.writers > 0
	})
	tn.Conn.Close()
	for range 2 {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

// TestH2Idle: a connection without tunnels is closed after a while.
func TestH2Idle(t *testing.T) {
	p := newGoProxy(t, nil, echoTunnel)
	cfg := h2Config(p.addr)
	cfg.IdleTimeout = 300 * time.Millisecond // time enough to open a tunnel
	d := newDialer(t, cfg)
	tn := mustTunnel(t, d)
	echo(t, tn, "hello")
	if d.Stats().Conns != 1 {
		t.Error(d.Stats())
	}
	tn.Conn.Close()
	eventually(t, "the connection's end", func() bool { return d.Stats() == Stats{} })
	echo(t, mustTunnel(t, d), "again")
	if n := p.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// TestH2Close: running tunnels finish; then their connection closes.
func TestH2Close(t *testing.T) {
	p := newGoProxy(t, nil, echoTunnel)
	d := newDialer(t, h2Config(p.addr))
	tn := mustTunnel(t, d)
	d.Close()
	echo(t, tn, "hello")
	if _, err := d.DialTunnel(testContext(t), testTarget, Client{}); err != ErrClosed {
		t.Error(err)
	}
	_ = tn.Conn.(*stream).CloseWrite()
	if _, err := tn.Conn.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	eventually(t, "the connection's end", func() bool { return d.Stats() == Stats{} })
}

// TestH2Retire: a dialer that is retired keeps no connection without a tunnel: those that carry one
// close with the last of them, and so do those of tunnels that were asked for later.
func TestH2Retire(t *testing.T) {
	f := newGoProxy(t, nil, echoTunnel)
	cfg := h2Config(f.addr)
	cfg.MaxTunnelsPerConn, cfg.IdleTimeout = 2, time.Hour
	d := newDialer(t, cfg)
	var tunnels []*Tunnel
	for range 5 {
		tunnels = append(tunnels, mustTunnel(t, d))
	}
	await := func(conns, streams int) {
		t.Helper()
		want := Stats{Conns: conns, Streams: streams}
		eventually(t, fmt.Sprint(want), func() bool { return d.Stats() == want })
	}
	await(3, 5)
	tunnels[4].Conn.Close() // the only one of its connection
	tunnels[3].Conn.Close()
	await(3, 3)
	d.Retire()
	await(2, 3)
	for _, tn := range tunnels[:3] {
		echo(t, tn, "goes on")
	}
	late := mustTunnel(t, d) // where the fourth was
	echo(t, late, "late")
	late.Conn.Close()
	await(2, 3)
	tunnels[2].Conn.Close()
	await(1, 2)
	tunnels[0].Conn.Close()
	await(1, 1)
	echo(t, tunnels[1], "still goes on")
	tunnels[1].Conn.Close()
	await(0, 0)
	last := mustTunnel(t, d)
	echo(t, last, "the last")
	last.Conn.Close()
	await(0, 0)
}

// TestH2OneFailedDial: who dials gets the error; the others go on.
func TestH2OneFailedDial(t *testing.T) {
	p := newGoProxy(t, nil, echoTunnel)
	var dials atomic.Int32
	first, gate := make(chan struct{}), make(chan struct{})
	cfg := h2Config(p.addr)
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		if dials.Add(1) == 1 {
			close(first)
			<-gate
			return nil, errors.New("no route")
		}
		return dialTo(p.addr)(ctx)
	}
	d := newDialer(t, cfg)
	results := make(chan error, 5)
	ask := func() {
		tn, err := d.DialTunnel(testContext(t), testTarget, Client{})
		if err == nil {
			defer tn.Conn.Close()
		}
		results <- err
	}
	go ask()
	<-first
	for range 4 {
		go ask()
	}
	eventually(t, "five who ask", func() bool { return d.pool.asking.Load() == 5 })
	close(gate)
	failed := 0
	for range 5 {
		if err := <-results; err != nil {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d failed", failed)
	}
}

// TestH2Unavailable: a proxy that chooses HTTP/1.1 is asked for each tunnel on a
// connection of its own, all at once.
func TestH2Unavailable(t *testing.T) {
	f := listen(t, func(c net.Conn) {
		tc := tls.Server(c, serverTLS("http/1.1"))
		answering("HTTP/1.1 200 OK\r\n\r\n", false)(tc)
	})
	d := newDialer(t, h2Config(f.addr))
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			tn, err := d.DialTunnel(testContext(t), testTarget, Client{})
			if err != nil {
				t.Error(err)
				return
			}
			if tn.Protocol != "http/1.1" {
				t.Error(tn.Protocol)
			}
			tn.Conn.Close()
		})
	}
	all.Wait()
	if n := f.accepted.Load(); n != 10 {
		t.Errorf("%d connections", n)
	}
}

// TestH2Churn: many tunnels come and go on few connections, some cancelled, some
// aborted; all slots come back.
func TestH2Churn(t *testing.T) {
	p := newGoProxy(t, &http.HTTP2Config{MaxConcurrentStreams: 7}, echoTunnel)
	d := newDialer(t, h2Config(p.addr))
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for j := range 20 {
				ctx, cancel := context.WithCancel(testContext(t))
				if (i+j)%5 == 0 {
					time.AfterFunc(time.Duration(rand.IntN(2000))*time.Microsecond, cancel)
				}
				tn, err := d.DialTunnel(ctx, testTarget, Client{})
				cancel()
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					continue
				}
				echo(t, tn, fmt.Sprint("tunnel ", i, j))
				if j%3 == 0 {
					tn.Conn.(*stream).Abort()
				} else {
					tn.Conn.Close()
				}
			}
		})
	}
	all.Wait()
	eventually(t, "all slots", func() bool { return d.Stats().Streams == 0 })
}
