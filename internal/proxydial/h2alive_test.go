package proxydial

import (
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// silentConfig finds silence soon, and ends no connection for it.
func silentConfig(addr string) Config {
	cfg := h2Config(addr)
	cfg.SignTimeout, cfg.PingInterval, cfg.PingTimeout = 20*time.Millisecond, time.Hour, time.Hour
	return cfg
}

// numbered is h2Fake that tells its connections apart, from 1.
func numbered(t *testing.T, script func(p *h2Peer, n int)) *fakeProxy {
	var count atomic.Int32
	return h2Fake(t, func(p *h2Peer) { script(p, int(count.Add(1))) })
}

// serveStreams answers CONNECTs and PINGs with the number of the connection.
func (p *h2Peer) serveStreams(n int) {
	for {
		switch f := p.next().(type) {
		case *http2.MetaHeadersFrame:
			p.reply(f.StreamID, "200", "via", strconv.Itoa(n))
		case *http2.PingFrame:
			_ = p.WritePing(true, f.Data)
		}
	}
}

// A connection that was lost without a trace costs a CONNECT no more than the time
// to find out: it goes to a fresh one. With the first, all others that have been
// silent since are no longer trusted.
func TestH2SilentConnections(t *testing.T) {
	asked := make(chan http2.Frame, 100)
	f := numbered(t, func(p *h2Peer, n int) {
		if n > 3 {
			p.serveStreams(n)
		}
		p.reply(p.acceptStream(), "200", "via", strconv.Itoa(n))
		for {
			frame := p.next()
			switch frame.(type) {
			case *http2.MetaHeadersFrame, *http2.PingFrame:
				asked <- frame
			}
		}
	})
	cfg := silentConfig(f.addr)
	cfg.MaxTunnelsPerConn = 1
	d := newDialer(t, cfg)
	var idle []*Tunnel
	for range 3 {
		idle = append(idle, mustTunnel(t, d))
	}
	for _, tn := range idle {
		tn.Conn.Close()
	}
	eventually(t, "the slots", func() bool { return d.Stats() == Stats{Conns: 3} })
	if tn := mustTunnel(t, d); tn.Reply.Via != "4" || tn.Reused {
		t.Errorf("tunnel on connection %s, reused: %t; want a fresh one", tn.Reply.Via, tn.Reused)
	}
	connects := 0
	for range 4 { // a CONNECT, and a PING on each connection
		if _, ok := (<-asked).(*http2.MetaHeadersFrame); ok {
			connects++
		}
	}
	if connects != 1 {
		t.Errorf("%d CONNECTs on silent connections; want 1", connects)
	}
}

// A tunnel that stands on a connection gives it no credit.
func TestH2SilentConnectionInUse(t *testing.T) {
	f := numbered(t, func(p *h2Peer, n int) {
		if n > 1 {
			p.serveStreams(n)
		}
		p.reply(p.acceptStream(), "200")
		p.linger()
	})
	d := newDialer(t, silentConfig(f.addr))
	mustTunnel(t, d)
	for range 2 {
		if tn := mustTunnel(t, d); tn.Reply.Via != "2" {
			t.Errorf("tunnel on connection %q", tn.Reply.Via)
		}
	}
	if n := f.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// A destination that takes its time is no silence: the proxy answers PINGs, and the
// CONNECT is not sent again.
func TestH2SlowAnswer(t *testing.T) {
	const pings = 5
	f := numbered(t, func(p *h2Peer, n int) {
		p.reply(p.acceptStream(), "200", "via", strconv.Itoa(n))
		id := p.acceptStream()
		for seen := 0; seen < pings; {
			if ping, ok := p.next().(*http2.PingFrame); ok {
				_ = p.WritePing(true, ping.Data)
				seen++
			}
		}
		p.reply(id, "200", "via", strconv.Itoa(n))
		p.linger()
	})
	cfg := silentConfig(f.addr)
	cfg.SignTimeout = 200 * time.Millisecond // enough for an answer
	d := newDialer(t, cfg)
	mustTunnel(t, d)
	if tn := mustTunnel(t, d); tn.Reply.Via != "1" {
		t.Errorf("tunnel on connection %q", tn.Reply.Via)
	}
}

// A connection is used again when it was silent for a while only.
func TestH2SignOfLife(t *testing.T) {
	wake := make(chan struct{})
	f := numbered(t, func(p *h2Peer, n int) {
		if n > 1 {
			p.serveStreams(n)
		}
		p.reply(p.acceptStream(), "200", "via", "1")
		<-wake
		p.serveStreams(n)
	})
	revive := sync.OnceFunc(func() { close(wake) })
	t.Cleanup(revive)
	d := newDialer(t, silentConfig(f.addr))
	mustTunnel(t, d)
	if tn := mustTunnel(t, d); tn.Reply.Via != "2" {
		t.Errorf("tunnel on connection %q", tn.Reply.Via)
	}
	revive()
	eventually(t, "trust in the first connection", func() bool { return mustTunnel(t, d).Reply.Via == "1" })
}

// A connection that is asked for a sign of life and loses its last tunnel meanwhile
// ends all the same if none comes.
func TestH2SilentConnectionEnds(t *testing.T) {
	f := numbered(t, func(p *h2Peer, n int) {
		if n > 1 {
			p.serveStreams(n)
		}
		p.reply(p.acceptStream(), "200")
		p.linger()
	})
	cfg := silentConfig(f.addr)
	cfg.PingTimeout = 500 * time.Millisecond
	d := newDialer(t, cfg)
	first := mustTunnel(t, d)
	mustTunnel(t, d)
	first.Conn.Close()
	eventually(t, "the end of the silent connection", func() bool { return d.Stats() == Stats{Conns: 1, Streams: 1} })
}

// A connection that carries tunnels is not ended for a silence that a CONNECT has met
// there: a pause of the path would cost all of them. It has the time that it has without.
func TestH2SilentConnectionKeepsItsTunnels(t *testing.T) {
	revive := make(chan struct{})
	f := numbered(t, func(p *h2Peer, n int) {
		if n > 1 {
			p.serveStreams(n)
		}
		standing := p.acceptStream()
		p.reply(standing, "200")
		<-revive
		_ = p.WriteData(standing, false, []byte("on"))
		p.linger()
	})
	cfg := silentConfig(f.addr)
	cfg.PingTimeout = 50 * time.Millisecond
	d := newDialer(t, cfg)
	standing := mustTunnel(t, d)
	mustTunnel(t, d)                 // over a second one
	time.Sleep(10 * cfg.PingTimeout) // nothing is to happen
	close(revive)
	got := make([]byte, 2)
	if _, err := io.ReadFull(standing.Conn, got); err != nil || string(got) != "on" {
		t.Errorf("%q, %v", got, err)
	}
}
