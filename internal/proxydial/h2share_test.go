package proxydial

import (
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// hoarder is a proxy with windows of 64 KiB, for streams and for the connection,
// which it gives back when half of one has been read: as nghttpx does. It never
// reads the first streams of a connection, as many as stuck says.
type hoarder struct {
	*fakeProxy
	stuck int
	held  atomic.Int64 // bytes of those streams
	taken atomic.Int64 // bytes of others
}

func newHoarder(t *testing.T, stuck int) *hoarder {
	h := &hoarder{stuck: stuck}
	var conns atomic.Int32
	h.fakeProxy = h2Fake(t, func(p *h2Peer) { h.serve(p, int(conns.Add(1))) })
	return h
}

func (h *hoarder) serve(p *h2Peer, n int) {
	const half = initialWindow / 2
	held := map[uint32]int{}
	read := map[uint32]int{} // not given back, of the connection: 0
	give := func(id uint32, n int) {
		if read[id] += n; read[id] >= half {
			_ = p.WriteWindowUpdate(id, uint32(read[id]))
			read[id] = 0
		}
	}
	for {
		switch f := p.next().(type) {
		case *http2.PingFrame:
			_ = p.WritePing(true, f.Data)
		case *http2.MetaHeadersFrame:
			p.reply(f.StreamID, "200", "via", strconv.Itoa(n))
		case *http2.DataFrame:
			size := len(f.Data())
			if n == 1 && f.StreamID < uint32(2*h.stuck) {
				held[f.StreamID] += size
				h.held.Add(int64(size))
				continue
			}
			give(0, size)
			give(f.StreamID, size)
			h.taken.Add(int64(size))
		case *http2.RSTStreamFrame:
			give(0, held[f.StreamID])
			h.held.Add(-int64(held[f.StreamID]))
			held[f.StreamID] = 0
		}
	}
}

// stall writes to a tunnel until it breaks.
func stall(t *testing.T, tn *Tunnel) (broken <-chan error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		block := make([]byte, 32<<10)
		for {
			if _, err := tn.Conn.Write(block); err != nil {
				done <- err
				return
			}
		}
	}()
	return done
}

// A tunnel whose destination takes nothing leaves others of the connection half of
// what the proxy lets it send.
func TestH2StalledTunnel(t *testing.T) {
	h := newHoarder(t, 1)
	d := newDialer(t, h2Config(h.addr))
	stalled, other := mustTunnel(t, d), mustTunnel(t, d)
	stall(t, stalled)
	eventually(t, "the stall", func() bool { return h.held.Load() >= initialWindow/2 })
	const size = 300_000
	if _, err := other.Conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other tunnel's bytes", func() bool { return h.taken.Load() == size })
	if n := h.held.Load(); n > initialWindow/2+1 {
		t.Errorf("the stalled tunnel got %d bytes of the window out; want half", n)
	}
}

// A tunnel that is alone may use all of the window, and does not share the
// connection any more when it has.
func TestH2ExhaustedConnection(t *testing.T) {
	h := newHoarder(t, 1)
	d := newDialer(t, h2Config(h.addr))
	stall(t, mustTunnel(t, d))
	eventually(t, "all of the window to be used", func() bool { return h.held.Load() == initialWindow })
	other := mustTunnel(t, d)
	if other.Reply.Via != "2" {
		t.Errorf("a new tunnel on connection %s", other.Reply.Via)
	}
	if _, err := io.WriteString(other.Conn, "hello"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its bytes", func() bool { return h.taken.Load() == 5 })
}

// Where several tunnels have stalled, and nothing is left to send for the others, the
// one that holds the most is reset.
func TestH2StalledTunnelsAreReset(t *testing.T) {
	h := newHoarder(t, 2)
	cfg := h2Config(h.addr)
	cfg.StarveTimeout = 50 * time.Millisecond
	d := newDialer(t, cfg)
	first, second, other := mustTunnel(t, d), mustTunnel(t, d), mustTunnel(t, d)
	firstBroken := stall(t, first)
	eventually(t, "the first to stall", func() bool { return h.held.Load() >= initialWindow/2 })
	secondBroken := stall(t, second)
	eventually(t, "the second to stall", func() bool { return h.held.Load() == initialWindow })
	const size = 100_000
	if _, err := other.Conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other tunnel's bytes", func() bool { return h.taken.Load() == size })
	var err error
	select {
	case err = <-firstBroken:
	case err = <-secondBroken:
	}
	if !errors.Is(err, errStalled) {
		t.Errorf("the tunnel ended with %v", err)
	}
}

// Tunnels that have all stalled alike are left alone: nobody else waits.
func TestH2StalledAlone(t *testing.T) {
	h := newHoarder(t, 1)
	cfg := h2Config(h.addr)
	cfg.StarveTimeout = time.Millisecond
	d := newDialer(t, cfg)
	tn := mustTunnel(t, d)
	_ = tn.Conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := tn.Conn.Write(make([]byte, 2*initialWindow)); n != initialWindow || errors.Is(err, errStalled) {
		t.Errorf("%d bytes, %v; want %d and a timeout", n, err, initialWindow)
	}
}
