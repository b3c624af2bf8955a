package proxydial

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// creditor is a proxy whose destinations read at once, and which gives its windows back
// by a rule.
type creditor struct {
	*fakeProxy
	due   func(used, full int) bool
	taken atomic.Int64 // bytes of all tunnels
}

// When proxies give a window back.
var (
	atHalf    = func(used, full int) bool { return used >= full/2 }     // nghttp2
	aboveHalf = func(used, full int) bool { return used > full/2 }      // Jetty
	nearEnd   = func(used, full int) bool { return full-used < 16<<10 } // Apache Traffic Server
	atTheEnd  = func(used, full int) bool { return used == full }       // as late as can be
)

func newCreditor(t *testing.T, window int, due func(used, full int) bool) *creditor {
	f := &creditor{due: due}
	var conns atomic.Int32
	f.fakeProxy = h2Fake(t, func(p *h2Peer) { f.serve(p, window, int(conns.Add(1))) },
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(window)})
	return f
}

func (f *creditor) serve(p *h2Peer, window, n int) {
	if window > initialWindow {
		_ = p.WriteWindowUpdate(0, uint32(window-initialWindow))
	}
	used := map[uint32]int{}
	for {
		switch frame := p.next().(type) {
		case *http2.PingFrame:
			_ = p.WritePing(true, frame.Data)
		case *http2.MetaHeadersFrame:
			p.reply(frame.StreamID, "200", "via", strconv.Itoa(n))
		case *http2.DataFrame:
			size := len(frame.Data())
			for _, id := range []uint32{0, frame.StreamID} {
				if used[id] += size; used[id] > 0 && f.due(used[id], window) {
					_ = p.WriteWindowUpdate(id, uint32(used[id]))
					used[id] = 0
				}
			}
			f.taken.Add(int64(size))
		}
	}
}

// send moves n bytes through a tunnel to a destination that reads them.
func (f *creditor) send(t *testing.T, tn *Tunnel, n int) {
	t.Helper()
	before := f.taken.Load()
	if sent, err := tn.Conn.Write(make([]byte, n)); err != nil {
		t.Fatalf("%d of %d bytes: %v", sent, n, err)
	}
	eventually(t, "the bytes", func() bool { return f.taken.Load() == before+int64(n) })
}

// waitNoMore makes a tunnel that has to wait for ShareWait fail the test.
func waitNoMore(d *Dialer) {
	for _, c := range d.pool.conns {
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	d.cfg.ShareWait = time.Hour
}

// known is what is known of how the proxy gives the windows of the first connection back.
func known(d *Dialer) (prompt bool, late int64) {
	d.pool.mu.Lock()
	c := d.pool.conns[0]
	d.pool.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.prompt, c.late
}

// Whenever a proxy gives windows back, tunnels beside others get their bytes through,
// and it is learned once for a connection.
func TestH2LateCredit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		window int
		due    func(used, full int) bool
		least  int64 // that must have been learned
		most   int64
	}{
		{"at half", initialWindow, atHalf, 0, 0},
		{"above half", 512 << 10, aboveHalf, 256<<10 + 1, 320 << 10},
		{"near the end", initialWindow, nearEnd, 48 << 10, 48 << 10},
		{"near the end of a large window", 512 << 10, nearEnd, 496 << 10, 512 << 10},
		{"at the end", initialWindow, atTheEnd, initialWindow, initialWindow},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newCreditor(t, tc.window, tc.due)
			cfg := h2Config(f.addr)
			cfg.ShareWait = 10 * time.Millisecond
			cfg.MaxTunnelsPerConn = 2
			d := newDialer(t, cfg)
			tunnels := []*Tunnel{mustTunnel(t, d), mustTunnel(t, d)}
			f.send(t, tunnels[0], 4*tc.window)
			if prompt, late := known(d); prompt != (tc.most == 0) || late < tc.least || late > tc.most {
				t.Errorf("learned %v, %d of %d; want %d to %d", prompt, late, tc.window, tc.least, tc.most)
			}
			waitNoMore(d)
			f.send(t, tunnels[1], 4*tc.window)
		})
	}
}

// What is left where a proxy gives windows back late is no reason for a connection of
// its own for each tunnel.
func TestH2LateCreditIsNoExhaustion(t *testing.T) {
	f := newCreditor(t, initialWindow, nearEnd)
	cfg := h2Config(f.addr)
	cfg.ShareWait = 10 * time.Millisecond
	d := newDialer(t, cfg)
	tn := mustTunnel(t, d)
	mustTunnel(t, d)
	f.send(t, tn, 4*initialWindow)
	c := d.pool.conns[0]
	eventually(t, "less than half to be left", func() bool {
		f.send(t, tn, 500)
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.sendWindow < initialWindow/2 && c.sendWindow >= 16<<10
	})
	if via := mustTunnel(t, d).Reply.Via; via != "1" {
		t.Errorf("a new tunnel on connection %s", via)
	}
}

// Where windows are given back at half, a tunnel that has stalled is not tried any more.
func TestH2StalledTunnelOfAPromptProxy(t *testing.T) {
	h := newHoarder(t, 1)
	cfg := h2Config(h.addr)
	cfg.ShareWait = time.Millisecond
	d := newDialer(t, cfg)
	stalled, other := mustTunnel(t, d), mustTunnel(t, d)
	eventually(t, "the proxy to be known", func() bool {
		if _, err := other.Conn.Write(make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		prompt, _ := known(d)
		return prompt
	})
	stall(t, stalled)
	eventually(t, "the stall", func() bool { return h.held.Load() >= initialWindow/2 })
	for range 50 { // longer than ShareWait
		before := h.taken.Load()
		if _, err := other.Conn.Write(make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the other tunnel's bytes", func() bool { return h.taken.Load() >= before+50_000-initialWindow })
	}
	if n := h.held.Load(); n > initialWindow/2+1 {
		t.Errorf("the stalled tunnel got %d bytes of the window out; want half", n)
	}
}

// A destination that was slow for a while makes a proxy that gives windows back at half
// look like one that does not, until it shows.
func TestH2SlowDestinationIsNoLateCredit(t *testing.T) {
	var slow atomic.Bool
	slow.Store(true)
	f := newCreditor(t, initialWindow, func(used, full int) bool {
		if slow.Load() {
			return nearEnd(used, full)
		}
		return atHalf(used, full)
	})
	cfg := h2Config(f.addr)
	cfg.ShareWait = 10 * time.Millisecond
	d := newDialer(t, cfg)
	tn := mustTunnel(t, d)
	mustTunnel(t, d)
	f.send(t, tn, 4*initialWindow)
	if _, late := known(d); late == 0 {
		t.Fatal("nothing was learned")
	}
	slow.Store(false)
	eventually(t, "the proxy to be known for what it is", func() bool {
		f.send(t, tn, 4*initialWindow)
		prompt, _ := known(d)
		return prompt
	})
}
