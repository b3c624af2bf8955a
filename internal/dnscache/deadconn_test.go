package dnscache

import (
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache/dnstest"
)

// path is a way to a server on which connections can go dead: what is sent on them is
// swallowed, and nobody is told.
type path struct {
	addr string

	mu        sync.Mutex
	conns     []*atomic.Bool // whether it is dead
	swallowed atomic.Int64   // queries, roughly: pieces of data
}

func newPath(t *testing.T, to string) *path {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &path{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				conn.Close()
				continue
			}
			dead := new(atomic.Bool)
			p.mu.Lock()
			p.conns = append(p.conns, dead)
			p.mu.Unlock()
			wg.Go(func() { p.pump(out, conn, dead); out.Close() })
			wg.Go(func() { p.pump(conn, out, dead); conn.Close() })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return p
}

func (p *path) pump(to io.Writer, from io.Reader, dead *atomic.Bool) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if dead.Load() {
			p.swallowed.Add(1)
		} else if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// die makes the connections that stand dead. New ones work.
func (p *path) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, dead := range p.conns {
		dead.Store(true)
	}
}

func (p *path) made() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// over is the server of a protocol behind a path.
func over(t *testing.T, s *dnstest.Server, proto string) (*path, string) {
	t.Helper()
	switch proto {
	case "tcp":
		p := newPath(t, s.Addr)
		return p, "tcp://" + p.addr
	case "tls":
		p := newPath(t, s.TLS)
		return p, "tls://" + p.addr
	}
	at := strings.TrimSuffix(strings.TrimPrefix(s.HTTPS, "https://"), "/dns-query")
	p := newPath(t, at)
	return p, "https://" + p.addr + "/dns-query"
}

// Connections that are dead without anybody having been told are found out by the first
// question, which is answered over a new one by the same server. No other question is
// sent on them.
func TestClientDeadConnections(t *testing.T) {
	noLeaks(t)
	for _, proto := range []string{"tcp", "tls", "https"} {
		t.Run(proto, func(t *testing.T) {
			t.Parallel()
			s, other := dnstest.Start(t), dnstest.Start(t)
			p, server := over(t, s, proto)
			c := newClient(t, s.Trust, server, other.Addr)
			c.servers[0].try = 20 * time.Second
			wait := make(chan struct{})
			var wg sync.WaitGroup
			for _, name := range []string{"a.test", "b.test", "c.test"} {
				s.Set(name, dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60, Wait: wait})
				wg.Go(func() {
					if _, err := c.Lookup(t.Context(), name, IPv4); err != nil {
						t.Error(err)
					}
				})
			}
			await(t, func() bool { return s.Asked(proto) == 3 })
			close(wait) // so there are several connections, where each carries one question
			wg.Wait()
			p.die()
			before := p.made()
			if got, err := c.Lookup(t.Context(), "a.test", IPv4); err != nil || len(got.Addrs) != 1 {
				t.Fatalf("%v, %v", got.Addrs, err)
			}
			if p.made() != before+1 {
				t.Errorf("%d new connections", p.made()-before)
			}
			swallowed := p.swallowed.Load()
			for _, name := range []string{"b.test", "c.test", "a.test"} {
				if got, err := c.Lookup(t.Context(), name, IPv4); err != nil || len(got.Addrs) != 1 {
					t.Errorf("%s: %v, %v", name, got.Addrs, err)
				}
			}
			if p.swallowed.Load() != swallowed {
				t.Error("a dead connection was used again")
			}
			if other.Asked("udp") != 0 {
				t.Error("another server was asked")
			}
		})
	}
}

// A dead connection is closed also while others wait for an answer on it, and where
// nothing is left of the time of the question.
func TestClientDeadConnection_InUse(t *testing.T) {
	noLeaks(t)
	s := dnstest.Start(t)
	p, server := over(t, s, "https")
	c := newClient(t, s.Trust, server)
	c.servers[0].try = pingAfter / 2 // no ping is in time
	s.Set("a.test", dnstest.Records{Addrs: addrs("192.0.2.1"), TTL: 60})
	await(t, func() bool { // on a busy machine the handshake takes longer
		_, err := c.Lookup(t.Context(), "a.test", IPv4)
		return err == nil
	})
	p.die()
	var wg sync.WaitGroup
	for _, name := range []string{"a.test", "b.test", "c.test", "d.test"} {
		wg.Go(func() { _, _ = c.Lookup(t.Context(), name, IPv4) })
		time.Sleep(pingAfter / 10) // so that there is always one that waits
	}
	wg.Wait()
	await(t, func() bool {
		_, err := c.Lookup(t.Context(), "a.test", IPv4)
		return err == nil
	})
}

// A name that is slow costs the connection nothing.
func TestClientSlowNameKeepsConnection(t *testing.T) {
	noLeaks(t)
	s, other := dnstest.Start(t), dnstest.Start(t)
	p, server := over(t, s, "https")
	s.Set("slow.test", dnstest.Records{Silent: true})
	c := newClient(t, s.Trust, server, other.Addr)
	ask := func(name string) {
		t.Helper()
		if _, err := c.Lookup(t.Context(), name, IPv4); err != nil {
			t.Fatal(err)
		}
	}
	ask("origin.test")
	c.servers[0].try = 3 * time.Second // pings are answered in that
	ask("slow.test")
	c.servers[0].try = 30 * time.Second
	ask("origin.test")
	if n := p.made(); n != 1 {
		t.Errorf("%d connections", n)
	}
}
