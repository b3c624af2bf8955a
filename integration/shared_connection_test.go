package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// This file contains tunnels that share a connection, of which some stall: to an
// origin that reads nothing.

// newStuckOrigin reads nothing until the test ends.
func newStuckOrigin(t *testing.T) *rawOrigin {
	t.Helper()
	over := make(chan struct{})
	o := newRawOrigin(t, func(c *originConn) {
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		<-over
	})
	t.Cleanup(func() { close(over) })
	return o
}

// stallTunnel sends through a tunnel to a stuck origin until nothing moves any more.
// The channel gets the error that ends it.
func stallTunnel(t *testing.T, tun *tunnel) (broken <-chan error) {
	t.Helper()
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		block := make([]byte, 16<<10)
		for {
			n, err := tun.Write(block)
			sent.Add(int64(n))
			if err != nil {
				done <- err
				return
			}
		}
	}()
	last, since := int64(0), time.Now()
	eventually(t, "the tunnel to stall", func() bool {
		if now := sent.Load(); now != last || now == 0 {
			last, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	return done
}

// echoes sends much through a tunnel to an echo, and wants it back.
func echoes(t *testing.T, tun *tunnel, what string) {
	t.Helper()
	sent := strings.Repeat(what+". ", 200_000/len(what))
	go func() { _, _ = io.WriteString(tun, sent) }()
	back := make(chan bool, 1)
	go func() {
		got := make([]byte, len(sent))
		_, err := io.ReadFull(tun, got)
		back <- err == nil && string(got) == sent
	}()
	if !await(t, back, what) {
		t.Errorf("%s: not what was sent came back", what)
	}
}

// A tunnel that has stalled holds up no other one of the same client connection, nor
// a new one.
func TestTunnel_StalledBesideOthers(t *testing.T) {
	for _, kind := range []string{"h2", "h3"} {
		t.Run(kind, func(t *testing.T) {
			checkLeaks(t)
			stuck, echo := newStuckOrigin(t), newEchoOrigin(t)
			p := startUsual(t, mode{access: true})
			c := p.client(t, kind)
			stalled, other := c.open(t, stuck.addr), c.open(t, echo.addr)
			stallTunnel(t, stalled)
			echoes(t, other, "the tunnel beside it")
			echoes(t, c.open(t, echo.addr), "a new tunnel")
			stalled.Abort()
		})
	}
}

// Over HTTP/3 two stalled tunnels can take all that a client may send: one of them is
// reset after a while.
func TestTunnel_StalledTogetherH3(t *testing.T) {
	checkLeaks(t)
	stuck, echo := newStuckOrigin(t), newEchoOrigin(t)
	p := startUsual(t, mode{access: true})
	c := p.client(t, "h3")
	other := c.open(t, echo.addr)
	alive(t, other, "before")
	first, second := c.open(t, stuck.addr), c.open(t, stuck.addr)
	broken := [...]<-chan error{stallTunnel(t, first), stallTunnel(t, second)}
	echoes(t, other, "the tunnel that starves")
	select {
	case <-broken[0]:
	case <-broken[1]:
	case <-time.After(patience):
		t.Error("neither of the stalled tunnels was reset")
	}
	p.logs.wait(t, "a line with the reason", func(l logLine) bool { return strings.Contains(fmt.Sprint(l), "close_reason:stalled") })
	first.Abort()
	second.Abort()
}

// The tunnels of clients that know nothing of each other share connections to an
// upstream. One that has stalled holds up no other one.
func TestUpstream_StalledBesideOthers(t *testing.T) {
	for _, u := range []struct {
		name  string
		start func(t *testing.T) (addr string)
	}{
		{"egress", func(t *testing.T) string {
			_, secure := startParent(t)
			return secure
		}},
		{"nghttpx", func(t *testing.T) string {
			return peertest.Nghttpx(t, peers.NghttpxOptions{Backend: peertest.Squid(t, peers.SquidOptions{}).Addr}).Addr
		}},
	} {
		t.Run(u.name, func(t *testing.T) {
			checkLeaks(t)
			stuck, echo := newStuckOrigin(t), newEchoOrigin(t)
			p := start(t, mode{access: true}, setup{egress: usual + "upstream https://" + u.start(t) + " {\n tls_insecure_skip_verify\n}\n"})
			alice, bob := p.client(t, "h1"), p.client(t, "h1")
			stalled, other := alice.open(t, stuck.addr), bob.open(t, echo.addr)
			alive(t, other, "before")
			stallTunnel(t, stalled)
			echoes(t, other, "the tunnel beside it")
			echoes(t, bob.open(t, echo.addr), "a new tunnel")
			stalled.Abort()
		})
	}
}

// A CONNECT with larger fields than the upstream takes, such as what a route copies from
// the client, is the fault of that client alone: the tunnels of others on the connection
// go on, no other upstream is asked, and none is blamed.
func TestUpstream_FieldsTooLargeBesideOthers(t *testing.T) {
	checkLeaks(t)
	echo := newEchoOrigin(t)
	events := newTransitions(t)
	group := "upstreams default {\nlb_policy round_robin\n"
	for range 2 {
		_, secure := startParent(t)
		group += "upstream https://" + secure + " {\n tls_insecure_skip_verify\n}\n"
	}
	p := start(t, mode{access: true}, setup{
		egress: usual + group + "}\nroute {\nto default\nheader_up X-Tag {http.request.header.X-Tag}\n}\n",
		global: events.global(),
	})
	c := p.client(t, "h1")
	others := []*tunnel{c.open(t, echo.addr), c.open(t, echo.addr)}
	for range 10 {
		resp, tun := c.connect(t, echo.addr, "", http.Header{"X-Tag": {strings.Repeat("y", 17_000)}})
		expectError(t, resp, 431, "http_request_error")
		tun.Close()
	}
	line := p.logs.wait(t, "the access log of a refusal", func(l logLine) bool { return l.isAccess() && l.num("status") == 431 })
	if line.str("egress.blame") != "client" || line.num("egress.attempts") != 1 {
		t.Errorf("egress: %v", line["egress"])
	}
	for _, other := range others {
		alive(t, other, "a tunnel of another client")
	}
	alive(t, c.open(t, echo.addr), "a new tunnel")
	events.expect(t, p, nil)
}
