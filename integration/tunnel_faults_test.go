package integration

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/faultnet"
)

// spoiled puts a forwarder that spoils every connection in front of an origin.
func spoiled(t *testing.T, origin *rawOrigin, s faultnet.Script) string {
	t.Helper()
	p, err := faultnet.Start(origin.addr, faultnet.Always(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p.Addr
}

// closedAs fails the test unless the log says how the tunnel ended.
func closedAs(t *testing.T, p *proxy, addr, reason string, up, down float64) {
	t.Helper()
	if !p.mode.access {
		return
	}
	line := p.logs.wait(t, "the tunnel", func(l logLine) bool { return l.isAccess() && l.str("request.host") == addr })
	if line.str("egress.close_reason") != reason || line.num("egress.bytes_up") != up || line.num("egress.bytes_down") != down {
		t.Errorf("logged %v; want %s, %v up, %v down", line["egress"], reason, up, down)
	}
}

// upstream.md §7, scenario 19: the client ends first, and the rest still arrives,
// in pieces that take their time; then the half-close timer ends the tunnel.
func TestTunnel_ClientEndsTheRestArrives(t *testing.T) {
	rest := strings.Repeat("0123456789", 10_000)
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n half_close_timeout 700ms\n}\n"})
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			origin := newRawOrigin(t, func(oc *originConn) {
				if b, err := io.ReadAll(oc.br); string(b) != "the question" || err != nil {
					oc.fail("got %q, %v", b, err)
				}
				_, _ = io.WriteString(oc.Conn, rest)
				oc.closeWrite() // vanishes on the way
			})
			addr := spoiled(t, origin, faultnet.Script{Seed: 19, Down: faultnet.Direction{
				MaxPiece: 8000, Latency: time.Millisecond,
				Faults: []faultnet.Fault{faultnet.BlackHole(int64(len(rest)))},
			}})
			tun := c.open(t, addr)
			write(t, tun, "the question")
			if err := tun.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := readN(t, tun, len(rest)); got != rest {
				t.Error("other bytes came")
			}
			if extra, err := io.ReadAll(tun); len(extra) > 0 || isTimeout(err) {
				t.Errorf("behind the rest came %q, %v", extra, err)
			}
			closedAs(t, p, addr, "half_close_timeout", 12, float64(len(rest)))
		})
	})
}

// Scenario 20: one byte now and then keeps a tunnel open, silence closes it.
func TestTunnel_OneByteNowAndThen(t *testing.T) {
	const bytes = 30
	eachMode(t, func(t *testing.T, m mode) {
		p := start(t, m, setup{egress: usual + "tunnel {\n idle_timeout 1s\n}\n"})
		eachClientAtOnce(t, p, func(t *testing.T, c *client) {
			down := faultnet.Drip(1, 50*time.Millisecond)
			down.Faults = []faultnet.Fault{faultnet.BlackHole(bytes)}
			origin := newRawOrigin(t, func(oc *originConn) {
				_, _ = oc.Conn.Write(make([]byte, 2*bytes))
				_ = oc.awaitEnd()
			})
			addr := spoiled(t, origin, faultnet.Script{Down: down})
			tun := c.open(t, addr)
			start := time.Now()
			got, err := io.ReadAll(tun)
			if len(got) != bytes || isTimeout(err) {
				t.Errorf("got %d bytes, %v; want %d", len(got), err, bytes)
			}
			if d := time.Since(start); d < bytes*40*time.Millisecond {
				t.Errorf("closed after %v", d)
			}
			closedAs(t, p, addr, "idle", 0, bytes)
		})
	})
}
