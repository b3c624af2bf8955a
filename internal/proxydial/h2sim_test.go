package proxydial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// simParent is a proxy in the time of synctest.
type simParent struct {
	stream, conn int // windows
	ofStream     giving
	ofConn       giving
	receipt      bool        // the connection's is given back for what has come, not for what was read
	pause        atomic.Bool // nobody reads, but the proxy's own program goes on
	conns        atomic.Int32
	later        *simParent // what its second connection leads to, if not nil
}

// giving is a rule of when a window is given back.
type giving func(used, full int) bool

var (
	atOnce giving = func(int, int) bool { return true }
	never  giving = func(int, int) bool { return false }
)

// Hosts of destinations of a simParent.
const (
	reads = "reads.test"
	stuck = "stuck.test" // takes nothing
	slow  = "slow.test"  // takes slowBytes ten times a second
)

const slowBytes = 2 << 10

// simConfig is that of tests in the time of synctest, of which certificates know nothing.
func simConfig() Config {
	cfg := h2Config("")
	cfg.TLS.Time = func() time.Time { return realTime }
	return cfg
}

var realTime = time.Now()

func init() { testCertificate() }

func (p *simParent) dialer(t *testing.T, tunnels int) *Dialer {
	t.Helper()
	cfg := simConfig()
	cfg.MaxTunnelsPerConn = tunnels
	cfg.Dial = func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		t.Cleanup(func() { server.Close() })
		if n := p.conns.Add(1); n == 2 && p.later != nil {
			go p.later.serve(server)
		} else {
			go p.serve(server)
		}
		return client, nil
	}
	return newDialer(t, cfg)
}

// simConn is one of its connections.
type simConn struct {
	*simParent
	peer *h2Peer
	mu   sync.Mutex
	host map[uint32]string
	held map[uint32]int // not read
	used map[uint32]int // not given back; the connection is 0
}

func (p *simParent) serve(nc net.Conn) {
	defer nc.Close()
	tc := tls.Server(nc, serverTLS("h2"))
	if _, err := io.ReadFull(tc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	c := &simConn{simParent: p, peer: &h2Peer{Framer: http2.NewFramer(tc, tc)}, host: map[uint32]string{}, held: map[uint32]int{}, used: map[uint32]int{}}
	c.peer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = c.peer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(p.stream)})
	if p.conn > initialWindow {
		_ = c.peer.WriteWindowUpdate(0, uint32(p.conn-initialWindow))
	}
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-tick.C:
				c.readSlowly()
			case <-gone:
				return
			}
		}
	}()
	for {
		f, err := c.peer.ReadFrame()
		if err != nil {
			return
		}
		c.take(f)
	}
}

func (c *simConn) take(f http2.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = c.peer.WritePing(true, f.Data)
		}
	case *http2.MetaHeadersFrame:
		host, _, _ := net.SplitHostPort(f.PseudoValue("authority"))
		c.host[f.StreamID] = host
		c.peer.reply(f.StreamID, "200")
	case *http2.DataFrame:
		n := len(f.Data())
		if c.receipt {
			c.give(0, n)
		}
		if c.held[f.StreamID] += n; c.host[f.StreamID] == reads && !c.pause.Load() {
			c.read(f.StreamID, n, true)
		}
	case *http2.RSTStreamFrame:
		c.read(f.StreamID, c.held[f.StreamID], false)
	}
}

// read takes bytes of a tunnel.
func (c *simConn) read(id uint32, n int, open bool) {
	c.held[id] -= n
	if !c.receipt {
		c.give(0, n)
	}
	if open {
		c.give(id, n)
	} else {
		delete(c.host, id)
	}
}

func (c *simConn) give(id uint32, n int) {
	due, full := c.ofStream, c.stream
	if id == 0 {
		due, full = c.ofConn, c.conn
	}
	if c.used[id] += n; c.used[id] > 0 && due(c.used[id], full) {
		_ = c.peer.WriteWindowUpdate(id, uint32(c.used[id]))
		c.used[id] = 0
	}
}

func (c *simConn) readSlowly() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, host := range c.host {
		n := c.held[id]
		if host == slow {
			n = min(n, slowBytes)
		}
		if n > 0 && host != stuck && !c.pause.Load() {
			c.read(id, n, true)
		}
	}
}

// open opens a tunnel.
func open(t *testing.T, d *Dialer, host string) net.Conn {
	t.Helper()
	tn, err := d.DialTunnel(t.Context(), Target{Host: host, Port: 443}, Client{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tn.Conn.Close() })
	return tn.Conn
}

// oneLook is how long one tunnel may stop the others: three looks, and the answer of the
// proxy to a question that is asked between two of them.
const oneLook = 4*time.Second + 100*time.Millisecond

// trickle sends a little through a tunnel all the time, and reports what waited for too
// long.
func trickle(t *testing.T, c net.Conn, n int, every, total time.Duration) {
	t.Helper()
	for start := time.Now(); time.Since(start) < total; time.Sleep(every) {
		before := time.Now()
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Errorf("after %v, a tunnel beside others: %v", time.Since(start), err)
			return
		}
		if waited := time.Since(before); waited > oneLook {
			t.Errorf("after %v, %d bytes waited for %v", before.Sub(start), n, waited)
		}
	}
}

// upload sends n bytes, for which it has the time.
func upload(t *testing.T, c net.Conn, n int, within time.Duration) {
	t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(within))
	if sent, err := c.Write(make([]byte, n)); err != nil {
		t.Errorf("%d of %d bytes within %v: %v", sent, n, within, err)
	}
}

// Whatever the windows of a proxy are, and when it gives them back, healthy tunnels go
// on beside stalled ones, and beside each other.
func TestH2SharesOfAnyProxy(t *testing.T) {
	windows := []struct{ stream, conn int }{{initialWindow, initialWindow}, {1 << 20, initialWindow}, {initialWindow, 1 << 20}, {1 << 20, 1 << 20}}
	rules := []struct {
		name string
		giving
	}{{"at once", atOnce}, {"at half", atHalf}, {"near the end", nearEnd}, {"never", never}}
	for _, w := range windows {
		for _, ofStream := range rules {
			for _, ofConn := range rules[:3] {
				for _, receipt := range []bool{false, true} {
					when := "when read"
					if receipt {
						when = "when it has come"
					}
					parent := func() *simParent {
						return &simParent{stream: w.stream, conn: w.conn, ofStream: ofStream.giving, ofConn: ofConn.giving, receipt: receipt}
					}
					size := 4 * max(w.stream, w.conn)
					if ofStream.name == "never" {
						size = w.stream // more can never be sent
					}
					name := fmt.Sprintf("%dK,%dK/stream %s/connection %s, %s", (w.stream+1)>>10, (w.conn+1)>>10, ofStream.name, ofConn.name, when)
					t.Run(name, func(t *testing.T) {
						for _, company := range companies {
							if company.blind && ofStream.name == "never" {
								continue
							}
							t.Run(company.name, func(t *testing.T) {
								synctest.Test(t, func(t *testing.T) { company.run(t, parent(), size) })
							})
						}
					})
				}
			}
		}
	}
}

var companies = []struct {
	name  string
	run   func(t *testing.T, p *simParent, size int)
	blind bool // who stalls cannot be known where nothing is given back to streams
}{
	{name: "one stalled, others send little", run: func(t *testing.T, p *simParent, size int) {
		d := p.dialer(t, 100)
		stalled := open(t, d, stuck)
		var others sync.WaitGroup
		for range 3 {
			c := open(t, d, reads)
			others.Go(func() {
				trickle(t, c, 200, 50*time.Millisecond, min(40*time.Second, time.Duration(size/200)*50*time.Millisecond))
			})
		}
		stall(t, &Tunnel{Conn: stalled})
		others.Wait()
	}},
	{name: "several stalled, an upload", run: func(t *testing.T, p *simParent, size int) {
		d := p.dialer(t, 100)
		var all []net.Conn
		for range 6 {
			all = append(all, open(t, d, stuck))
		}
		c := open(t, d, reads)
		for _, s := range all {
			if _, err := s.Write(make([]byte, min(p.stream, p.conn/2)/8)); err != nil {
				t.Error(err)
			}
		}
		upload(t, c, size, 2*time.Minute)
	}},
	{name: "two uploads, a quiet one", run: func(t *testing.T, p *simParent, size int) {
		d := p.dialer(t, 100)
		first, second := open(t, d, reads), open(t, d, reads)
		quiet := open(t, d, reads)
		var both sync.WaitGroup
		both.Go(func() { upload(t, first, size, time.Minute) })
		both.Go(func() { upload(t, second, size, time.Minute) })
		both.Wait()
		upload(t, quiet, 1, time.Second)
	}},
	{name: "one that stalls again and again", run: func(t *testing.T, p *simParent, size int) {
		d := p.dialer(t, 100)
		c := open(t, d, reads)
		go func() {
			for t.Context().Err() == nil {
				tn, err := d.DialTunnel(t.Context(), Target{Host: stuck, Port: 443}, Client{})
				if err != nil {
					return
				}
				if err := <-stall(t, tn); !errors.Is(err, errStalled) {
					return
				}
			}
		}()
		trickle(t, c, 50, 50*time.Millisecond, 40*time.Second)
	}},
	{name: "an upload, and then one stalls", run: func(t *testing.T, p *simParent, size int) {
		d := p.dialer(t, 100)
		c, stalled := open(t, d, reads), open(t, d, stuck)
		upload(t, c, size/2, time.Minute)
		stall(t, &Tunnel{Conn: stalled})
		trickle(t, c, 100, 20*time.Millisecond, min(40*time.Second, time.Duration(size/2/100)*20*time.Millisecond))
	}, blind: true},
	{name: "a slow one, others send little", run: func(t *testing.T, p *simParent, size int) {
		d := p.dialer(t, 100)
		c, other := open(t, d, slow), open(t, d, reads)
		var both sync.WaitGroup
		both.Go(func() { trickle(t, other, 50, 50*time.Millisecond, 20*time.Second) })
		both.Go(func() { upload(t, c, min(size, 300_000), time.Minute) })
		both.Wait()
	}},
}

// broken counts the tunnels that have been reset, after the time that it takes to see it.
func broken(tunnels []net.Conn) (n int) {
	for _, c := range tunnels {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, errStalled) {
			n++
		}
	}
	return n
}

// opened opens n tunnels, and sends bytes through each.
func opened(t *testing.T, d *Dialer, host string, n, bytes int) (all []net.Conn) {
	t.Helper()
	for range n {
		all = append(all, open(t, d, host))
	}
	for _, c := range all {
		upload(t, c, bytes, time.Minute)
	}
	return all
}

// Where many small tunnels have stalled, those are reset that may hold something: not
// those whose bytes have long been read, though their streams were given nothing back.
func TestH2ReadTunnelsAreNotReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &simParent{stream: initialWindow, conn: initialWindow, ofStream: atHalf, ofConn: atHalf}
		d := p.dialer(t, 100)
		other := open(t, d, reads)
		var stalled []net.Conn
		for range 11 {
			stalled = append(stalled, open(t, d, stuck))
		}
		healthy := opened(t, d, reads, 4, 20_000)
		synctest.Wait() // until all of it is read, and it shows
		for _, c := range stalled {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(make([]byte, 6500))
		}
		upload(t, other, 100_000, 2*time.Minute)
		if n := broken(healthy); n > 0 {
			t.Errorf("%d healthy tunnels were reset", n)
		}
		if n := broken(stalled); n == 0 || n == len(stalled) {
			t.Errorf("%d of %d stalled tunnels were reset", n, len(stalled))
		}
	})
}

// Where streams have larger windows than the connection, their own say nothing of what a
// tunnel holds.
func TestH2SmallWindowOfTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &simParent{stream: 1 << 20, conn: initialWindow, ofStream: atHalf, ofConn: atHalf}
		d := p.dialer(t, 100)
		other, stalled := open(t, d, reads), open(t, d, stuck)
		healthy := opened(t, d, reads, 3, 100_000)
		stall(t, &Tunnel{Conn: stalled})
		trickle(t, other, 1000, 10*time.Millisecond, 50*time.Second)
		if n := broken(healthy); n > 0 {
			t.Errorf("%d healthy tunnels were reset", n)
		}
	})
}

// The tunnel that waits may be the one with the most that was not given back. Then others
// go all the same.
func TestH2WaitingTunnelIsNotReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &simParent{stream: initialWindow, conn: initialWindow, ofStream: atHalf, ofConn: atHalf}
		d := p.dialer(t, 100)
		var stalled []net.Conn
		for range 11 {
			stalled = append(stalled, open(t, d, stuck))
		}
		other := open(t, d, reads)
		upload(t, other, 20_000, time.Second)
		left := initialWindow - 20_000
		for _, c := range stalled {
			n := min(6500, left)
			upload(t, c, n, time.Second)
			left -= n
		}
		upload(t, other, 1000, time.Minute)
	})
}

// Two programs may be behind one address.
func TestH2TwoPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &simParent{stream: initialWindow, conn: initialWindow, ofStream: atHalf, ofConn: atHalf}
		p.later = &simParent{stream: initialWindow, conn: initialWindow, ofStream: nearEnd, ofConn: nearEnd}
		d := p.dialer(t, 2)
		first := []net.Conn{open(t, d, reads), open(t, d, reads)}
		second := []net.Conn{open(t, d, reads), open(t, d, reads)}
		upload(t, first[0], 200_000, time.Second)
		upload(t, second[0], 200_000, 5*time.Second)
	})
}

// A proxy that has been prompt may not be any more: a tunnel that stands is let beyond
// its share all the same, only later.
func TestH2PromptProxyThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late atomic.Bool
		p := &simParent{stream: initialWindow, conn: initialWindow, ofConn: nearEnd, ofStream: func(used, full int) bool {
			return nearEnd(used, full) || !late.Load() && atHalf(used, full)
		}}
		d := p.dialer(t, 2)
		c, _ := open(t, d, reads), open(t, d, reads)
		upload(t, c, 4*initialWindow, time.Second)
		late.Store(true)
		upload(t, c, 4*initialWindow, 5*time.Minute)
	})
}

// A tunnel for which others wait is left alone as long as the proxy gives no sign of
// life: no destination is to blame.
func TestH2SilentProxyResetsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := h2Peers(t, func(p *h2Peer) {
			for range 3 {
				p.reply(p.acceptStream(), "200")
			}
			time.Sleep(30 * time.Second)
			for read := 0; read < initialWindow; {
				if f, ok := p.next().(*http2.DataFrame); ok {
					read += len(f.Data())
				}
			}
			_ = p.WriteWindowUpdate(0, initialWindow)
			p.linger()
		})
		silent.PingTimeout = time.Hour
		d := newDialer(t, silent)
		all := []net.Conn{open(t, d, reads), open(t, d, reads)}
		other := open(t, d, reads)
		for _, c := range all {
			go func() { _, _ = c.Write(make([]byte, 40_000)) }()
		}
		synctest.Wait()
		upload(t, other, 100, time.Minute)
		if n := broken(all); n > 0 {
			t.Errorf("%d tunnels were reset", n)
		}
	})
}

// h2Peers leads to proxies that do with each connection what script says, in the time of
// synctest.
func h2Peers(t *testing.T, script func(p *h2Peer), settings ...http2.Setting) Config {
	cfg := simConfig()
	cfg.Dial = func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		t.Cleanup(func() { server.Close() })
		go func() {
			defer server.Close()
			tc := tls.Server(server, serverTLS("h2"))
			if _, err := io.ReadFull(tc, make([]byte, len(http2.ClientPreface))); err != nil {
				return
			}
			p := &h2Peer{Framer: http2.NewFramer(tc, tc), t: t, conn: server, tls: tc}
			p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			_ = p.WriteSettings(settings...)
			defer func() {
				if r := recover(); r != nil && r != errPeerGone {
					panic(r)
				}
			}()
			script(p)
		}()
		return client, nil
	}
	return cfg
}

// A proxy may shrink the windows of streams below what is used, and enlarge them again by
// any step.
func TestH2ShrunkWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan int, 200)
		d := newDialer(t, h2Peers(t, func(p *h2Peer) {
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
			window := func(n uint32) { _ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}) }
			read(50)
			window(0)
			for _, n := range []uint32{1, 48, 2} { // to -49, -1, 1
				_ = p.WriteWindowUpdate(id, n)
			}
			read(51)
			for i := range 100 {
				_ = p.WriteWindowUpdate(id, 1)
				read(52 + i)
			}
			window(1000)
			read(1151)
			p.linger()
		}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 50}))
		c := open(t, d, reads)
		go func() { _, _ = c.Write(make([]byte, 3000)) }()
		synctest.Wait()
		last := 0
		for len(got) > 0 {
			last = <-got
		}
		if last != 1151 {
			t.Errorf("%d bytes came, want 1151", last)
		}
	})
}
