package proxydial

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddy-egress/egress/internal/h1"
)

// h2Peer is the server's side of an HTTP/2 connection, frame by frame.
type h2Peer struct {
	*http2.Framer
	t    testing.TB
	conn net.Conn
	tls  *tls.Conn
}

// h2Fake is a proxy that does with each connection what script says. The
// handshake is done, and settings are sent, before.
func h2Fake(t testing.TB, script func(p *h2Peer), settings ...http2.Setting) *fakeProxy {
	return listen(t, func(c net.Conn) {
		tc := tls.Server(c, serverTLS("h2"))
		_ = c.(*net.TCPConn).SetReadBuffer(64 << 10) // for the flood
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(tc, preface); err != nil {
			return
		}
		p := &h2Peer{Framer: http2.NewFramer(tc, tc), t: t, conn: c, tls: tc}
		p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = p.WriteSettings(settings...)
		defer func() {
			if r := recover(); r != nil && r != errPeerGone {
				panic(r)
			}
		}()
		script(p)
	})
}

var errPeerGone = errors.New("the client has gone")

// next returns the next frame; where there is none, the script ends.
func (p *h2Peer) next() http2.Frame {
	f, err := p.ReadFrame()
	if err != nil {
		panic(errPeerGone)
	}
	return f
}

// acceptStream waits for a CONNECT.
func (p *h2Peer) acceptStream() uint32 {
	for {
		if h, ok := p.next().(*http2.MetaHeadersFrame); ok {
			if h.PseudoValue("method") != "CONNECT" || h.PseudoValue("authority") == "" || len(h.PseudoFields()) != 2 {
				p.t.Errorf("CONNECT with %v (RFC 9113 section 8.5)", h.PseudoFields())
			}
			return h.StreamID
		}
	}
}

// reply sends a head; more are names and values in turn.
func (p *h2Peer) reply(id uint32, status string, more ...string) { p.head(id, false, status, more...) }

func (p *h2Peer) head(id uint32, end bool, status string, more ...string) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	_ = e.WriteField(hpack.HeaderField{Name: ":status", Value: status})
	for i := 0; i < len(more); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: more[i], Value: more[i+1]})
	}
	block, first := b.Bytes(), true
	for first || len(block) > 0 {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		if first {
			_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndHeaders: len(block) == 0, EndStream: end})
		} else {
			_ = p.WriteContinuation(id, len(block) == 0, part)
		}
		first = false
	}
}

// linger reads on until the client goes.
func (p *h2Peer) linger() {
	for {
		p.next()
	}
}

// awaitReset waits for a RST_STREAM and returns its code.
func (p *h2Peer) awaitReset(id uint32) http2.ErrCode {
	for {
		if r, ok := p.next().(*http2.RSTStreamFrame); ok && r.StreamID == id {
			return r.ErrCode
		}
	}
}

// TestH2GoAwayInABurst is scenario 15: what lies above the last id was not looked
// at, and goes to another connection; what lies below finishes.
func TestH2GoAwayInABurst(t *testing.T) {
	var once sync.Once
	release := make(chan struct{})
	f := h2Fake(t, func(p *h2Peer) {
		first := false
		once.Do(func() { first = true })
		if !first {
			for {
				p.reply(p.acceptStream(), "200", "via", "second")
			}
		}
		for range 5 {
			p.acceptStream()
		}
		_ = p.WriteGoAway(3, http2.ErrCodeNo, nil) // streams 1 and 3
		<-release
		p.reply(1, "200", "via", "first")
		p.reply(3, "403", "via", "first")
		p.linger()
	})
	d := newDialer(t, h2Config(f.addr))
	results := make(chan string, 5)
	var tunnels sync.WaitGroup
	for range 5 {
		tunnels.Go(func() {
			tn, err := d.DialTunnel(testContext(t), testTarget, Client{})
			if re, ok := errors.AsType[*ReplyError](err); ok {
				results <- re.Via + " refused"
				return
			}
			if err != nil {
				results <- err.Error()
				return
			}
			results <- tn.Reply.Via
			tn.Conn.Close()
		})
	}
	count := map[string]int{}
	for range 3 {
		count[<-results]++ // those above the last id do not wait for the others
	}
	close(release)
	for range 2 {
		count[<-results]++
	}
	tunnels.Wait()
	if count["first"] != 1 || count["first refused"] != 1 || count["second"] != 3 {
		t.Error(count)
	}
	eventually(t, "the end of the first connection", func() bool { return d.Stats() == Stats{Conns: 1} })
	if n := f.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// TestH2GoAwayRunsOn: a tunnel outlives a GOAWAY, and new ones go elsewhere.
func TestH2GoAwayRunsOn(t *testing.T) {
	f := h2Fake(t, func(p *h2Peer) {
		id := p.acceptStream()
		p.reply(id, "200")
		_ = p.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
		_ = p.WriteGoAway(id, http2.ErrCodeNo, nil)
		for {
			if f, ok := p.next().(*http2.DataFrame); ok {
				_ = p.WriteData(id, f.StreamEnded(), f.Data())
			}
		}
	})
	d := newDialer(t, h2Config(f.addr))
	a := mustTunnel(t, d)
	echo(t, a, "one") // behind the GOAWAY
	b := mustTunnel(t, d)
	echo(t, b, "two")
	echo(t, a, "three")
	if n := f.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	_ = a.Conn.(*stream).CloseWrite()
	if _, err := a.Conn.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	eventually(t, "the end of the connection that went away", func() bool { return d.Stats() == Stats{Conns: 1, Streams: 1} })
}

// TestH2Retryable: a promise that nothing was done is passed on when it was made
// again and again.
func TestH2Retryable(t *testing.T) {
	for name, refuse := range map[string]func(p *h2Peer, id uint32){
		"REFUSED_STREAM": func(p *h2Peer, id uint32) { _ = p.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
		"GOAWAY": func(p *h2Peer, id uint32) {
			_ = p.WriteGoAway(id-1, http2.ErrCodeNo, nil)
			p.linger()
		},
	} {
		f := h2Fake(t, func(p *h2Peer) {
			for {
				refuse(p, p.acceptStream())
			}
		})
		_, err := newDialer(t, h2Config(f.addr)).DialTunnel(testContext(t), testTarget, Client{})
		if e := wantError(t, err); !e.Retryable || e.Sent || e.Stage != StageReply {
			t.Errorf("%s: %v (%+v)", name, err, e)
		}
	}
	// Any other reset promises nothing.
	f := h2Fake(t, func(p *h2Peer) {
		_ = p.WriteRSTStream(p.acceptStream(), http2.ErrCodeConnect)
		p.linger()
	})
	_, err := newDialer(t, h2Config(f.addr)).DialTunnel(testContext(t), testTarget, Client{})
	se, ok := errors.AsType[*StreamError](err)
	if e := wantError(t, err); e.Retryable || !e.Sent || !ok || se.Code != http2.ErrCodeConnect {
		t.Errorf("%v (%+v)", err, e)
	}
}

// TestH2StaleConnection: a connection that dies under a CONNECT after it had
// stood for a while says nothing about the proxy: a fresh one does.
func TestH2StaleConnection(t *testing.T) {
	var once sync.Once
	f := h2Fake(t, func(p *h2Peer) {
		dies := false
		once.Do(func() { dies = true })
		id := p.acceptStream()
		p.reply(id, "200")
		if dies {
			p.acceptStream()
			return
		}
		p.linger()
	})
	d := newDialer(t, h2Config(f.addr))
	mustTunnel(t, d)
	mustTunnel(t, d)
	if n := f.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	// One that dies at once, however, tells something.
	f = h2Fake(t, func(p *h2Peer) { p.acceptStream() })
	_, err := newDialer(t, h2Config(f.addr)).DialTunnel(testContext(t), testTarget, Client{})
	if e := wantError(t, err); e.Stage != StageReply || !errors.Is(err, io.ErrUnexpectedEOF) || e.Retryable || !e.Sent || f.accepted.Load() != 1 {
		t.Errorf("%v (%+v)", err, e)
	}
}

// TestH2BlackHole: a connection without a sign of life ends, with all on it, and
// the next tunnel gets another one.
func TestH2BlackHole(t *testing.T) {
	var once sync.Once
	silent := make(chan struct{})
	pinged := make(chan struct{}, 100)
	f := h2Fake(t, func(p *h2Peer) {
		dies := false
		once.Do(func() { dies = true })
		p.reply(p.acceptStream(), "200")
		if dies {
			<-silent // neither reads nor writes
			return
		}
		for {
			if f, ok := p.next().(*http2.PingFrame); ok {
				_ = p.WritePing(true, f.Data)
				pinged <- struct{}{}
			}
		}
	})
	t.Cleanup(func() { close(silent) })
	cfg := h2Config(f.addr)
	cfg.PingInterval, cfg.PingTimeout = 20*time.Millisecond, time.Second // enough for one that answers
	d := newDialer(t, cfg)
	dead := mustTunnel(t, d)
	if _, err := dead.Conn.Read(make([]byte, 1)); !errors.Is(err, errPingTimeout) {
		t.Error(err)
	}
	// One that answers lives on.
	mustTunnel(t, d)
	for range 3 {
		<-pinged
	}
	if got := d.Stats(); got != (Stats{Conns: 1, Streams: 1}) {
		t.Errorf("%+v", got)
	}
}

// TestH2Malformed: what breaks the protocol ends the stream or the connection, as
// it must, with an error and not a panic.
func TestH2Malformed(t *testing.T) {
	long := strings.Repeat("x", 20<<10)
	for _, tc := range []struct {
		name string
		do   func(p *h2Peer, id uint32)
		want string // part of the error
		code http2.ErrCode
		all  bool // the connection ends

		large bool
	}{
		{name: "status", do: func(p *h2Peer, id uint32) { p.reply(id, "20") }, want: `http2: status "20"`, code: http2.ErrCodeProtocol},
		{name: "101", do: func(p *h2Peer, id uint32) { p.reply(id, "101") }, want: "informational response 101", code: http2.ErrCodeProtocol},
		{name: "DATA first", do: func(p *h2Peer, id uint32) { _ = p.WriteData(id, false, []byte("x")) }, want: "DATA before the answer", code: http2.ErrCodeProtocol},
		{name: "1xx flood", do: func(p *h2Peer, id uint32) {
			for range 16384/len(":status103") + 1 {
				p.reply(id, "103")
			}
		}, want: "informational responses over 16384 bytes", code: http2.ErrCodeCancel, large: true},
		{name: "large head", do: func(p *h2Peer, id uint32) { p.reply(id, "200", "x", long[:9000], "y", long[:9000]) }, want: "response head over 16384 bytes", code: http2.ErrCodeCancel, large: true},
		{name: "large field", do: func(p *h2Peer, id uint32) { p.reply(id, "200", "x", long) }, want: "COMPRESSION_ERROR", all: true},
		{name: "upper-case name", do: func(p *h2Peer, id uint32) { p.reply(id, "200", "X", "y") }, want: "http2 PROTOCOL_ERROR in the stream", code: http2.ErrCodeProtocol},
		{name: "a stream of its own", do: func(p *h2Peer, id uint32) { p.reply(id+2, "200") }, want: "frame for stream 3, which is not open", all: true},
		{name: "push", do: func(p *h2Peer, id uint32) {
			_ = p.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true, BlockFragment: []byte{0x88}})
		}, want: "PUSH_PROMISE, which was forbidden", all: true},
		{name: "window overflow", do: func(p *h2Peer, id uint32) {
			_ = p.WriteWindowUpdate(0, 1<<31-1)
		}, want: "FLOW_CONTROL_ERROR", all: true},
		{name: "window overflow of the stream", do: func(p *h2Peer, id uint32) {
			_ = p.WriteWindowUpdate(id, 1<<31-1)
		}, want: "window over 2^31-1", code: http2.ErrCodeFlowControl},
		{name: "frame size", do: func(p *h2Peer, id uint32) { _ = p.WriteData(id, false, make([]byte, 20<<10)) }, want: "frame too large", all: true, large: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			codes := make(chan http2.ErrCode, 1)
			f := h2Fake(t, func(p *h2Peer) {
				p.AllowIllegalWrites = true
				id := p.acceptStream()
				tc.do(p, id)
				codes <- p.awaitReset(id)
				p.linger()
			})
			d := newDialer(t, h2Config(f.addr))
			_, err := d.DialTunnel(testContext(t), testTarget, Client{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %s", err, tc.want)
			}
			m, ok := errors.AsType[*MalformedError](err)
			if e := wantError(t, err); e.Stage != StageReply || !ok || m.TooLarge != tc.large {
				t.Errorf("%+v", e)
			}
			if tc.all {
				eventually(t, "the connection's end", func() bool { return d.Stats() == Stats{} })
				return
			}
			if got := <-codes; got != tc.code {
				t.Errorf("reset with %v, want %v", got, tc.code)
			}
			if got := d.Stats(); got != (Stats{Conns: 1}) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestH2BrokenTunnel: what goes wrong in a tunnel that stands.
func TestH2BrokenTunnel(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(p *h2Peer, id uint32)
		want string
	}{
		{"reset", func(p *h2Peer, id uint32) { _ = p.WriteRSTStream(id, http2.ErrCodeConnect) }, "stream reset by the proxy: CONNECT_ERROR"},
		{"the connection ends", func(p *h2Peer, id uint32) { p.conn.Close() }, "unexpected EOF"},
		{"HEADERS (RFC 9113 8.5)", func(p *h2Peer, id uint32) { p.head(id, true, "200") }, "HEADERS within a tunnel"},
		{"more than the window", func(p *h2Peer, id uint32) {
			for range defaultWindow/10_000 + 1 {
				_ = p.WriteData(id, false, make([]byte, 10_000))
			}
		}, "more DATA than the window allows"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			goOn := make(chan struct{})
			f := h2Fake(t, func(p *h2Peer) {
				id := p.acceptStream()
				p.reply(id, "200")
				_ = p.WriteData(id, false, []byte("before"))
				<-goOn
				tc.do(p, id)
				p.linger()
			})
			tn := mustTunnel(t, newDialer(t, h2Config(f.addr)))
			close(goOn)
			s := tn.Conn.(*stream)
			eventually(t, "the error", func() bool {
				s.c.mu.Lock()
				defer s.c.mu.Unlock()
				return s.err != nil
			})
			got, err := io.ReadAll(tn.Conn)
			if !strings.HasPrefix(string(got), "before") || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%.10q, %v, want %s", got, err, tc.want)
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v is no reset to those who use it as a connection", err)
			}
			if _, err := tn.Conn.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("write: %v", err)
			}
		})
	}
}

// TestH2Padding: padding counts for the window and is given back.
func TestH2Padding(t *testing.T) {
	f := h2Fake(t, func(p *h2Peer) {
		id := p.acceptStream()
		p.reply(id, "200")
		window := int64(4096)
		for sent := 0; sent < 100; {
			for window < 300 {
				if w, ok := p.next().(*http2.WindowUpdateFrame); ok && w.StreamID == id {
					window += int64(w.Increment)
				}
			}
			_ = p.WriteDataPadded(id, false, []byte("x"), make([]byte, 200))
			window -= 202
			sent++
		}
		_ = p.WriteData(id, true, nil)
		p.linger()
	})
	cfg := h2Config(f.addr)
	cfg.StreamWindow = 4096
	tn := mustTunnel(t, newDialer(t, cfg))
	if b, err := io.ReadAll(tn.Conn); err != nil || len(b) != 100 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestH2Settings: the peer's windows, also those it changes under way, are kept.
func TestH2Settings(t *testing.T) {
	got := make(chan int, 10)
	f := h2Fake(t, func(p *h2Peer) {
		id := p.acceptStream()
		p.reply(id, "200")
		total := 0
		read := func(until int) {
			for total < until {
				if d, ok := p.next().(*http2.DataFrame); ok {
					total += len(d.Data())
				}
			}
			got <- total
		}
		read(10)
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 25})
		read(25)
		_ = p.WriteWindowUpdate(id, 5)
		read(30)
		p.linger()
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	tn := mustTunnel(t, newDialer(t, h2Config(f.addr)))
	go func() { _, _ = tn.Conn.Write(make([]byte, 1000)) }()
	for _, want := range []int{10, 25, 30} {
		if n := <-got; n != want {
			t.Errorf("%d bytes came, want %d", n, want)
		}
	}
	tn.Conn.Close()
}

// TestH2WriteAtOnce: a write that does not wait sends what the window lets out.
func TestH2WriteAtOnce(t *testing.T) {
	f := h2Fake(t, func(p *h2Peer) {
		p.reply(p.acceptStream(), "200")
		p.linger()
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	tn := mustTunnel(t, newDialer(t, h2Config(f.addr)))
	s := tn.Conn.(h1.AtOnceWriter)
	if n, err := s.WriteAtOnce(make([]byte, 4)); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, want := range []int{6, 0} {
		if n, err := s.WriteAtOnce(make([]byte, 100)); n != want || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v; want %d", n, err, want)
		}
	}
	tn.Conn.Close()
	if _, err := s.WriteAtOnce(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestH2NoStreamsAllowed: a proxy that takes no streams is not dialed for ever.
func TestH2NoStreamsAllowed(t *testing.T) {
	f := h2Fake(t, (*h2Peer).linger, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
	_, err := newDialer(t, h2Config(f.addr)).DialTunnel(testContext(t), testTarget, Client{})
	if e := wantError(t, err); e.Stage != StageNegotiate || !errors.Is(err, errNoCapacity) || e.Sent {
		t.Error(err)
	}
}

// TestH2NoSettings: a server that chose h2 and does not speak it.
func TestH2NoSettings(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"silence":       func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"end":           func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) },
		"other words":   func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"another frame": func(c net.Conn) { _ = http2.NewFramer(c, c).WritePing(false, [8]byte{}) },
	} {
		f := listen(t, func(c net.Conn) { serve(tls.Server(c, serverTLS("h2"))) })
		cfg := h2Config(f.addr)
		cfg.TLSTimeout = patience
		if name == "silence" {
			cfg.TLSTimeout = time.Second // enough for the handshake
		}
		_, err := newDialer(t, cfg).DialTunnel(testContext(t), testTarget, Client{})
		e := wantError(t, err)
		if e.Stage != StageNegotiate || e.Sent || e.Timeout() != (name == "silence") {
			t.Errorf("%s: %v (%+v)", name, err, e)
		}
	}
}

// TestH2PingFlood: a peer that asks and does not read the answers is cut off.
func TestH2PingFlood(t *testing.T) {
	f := h2Fake(t, func(p *h2Peer) {
		p.reply(p.acceptStream(), "200")
		var many bytes.Buffer
		w := http2.NewFramer(&many, nil)
		for range 900 {
			_ = w.WritePing(false, [8]byte{})
		}
		for {
			if _, err := p.tls.Write(many.Bytes()); err != nil {
				return
			}
		}
	})
	cfg := h2Config(f.addr)
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dialTo(f.addr)(ctx)
		if err == nil {
			_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10) // so that it is full soon
		}
		return c, err
	}
	tn := mustTunnel(t, newDialer(t, cfg))
	if _, err := tn.Conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "more questions than the peer reads answers") {
		t.Error(err)
	}
}
