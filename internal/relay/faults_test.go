package relay

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/faultnet"
)

// faultyLinks are ways to a client whose connection a script spoils.
var faultyLinks = []struct {
	name string
	link func(testing.TB, faultnet.Script) link
}{
	{"tcp", func(t testing.TB, s faultnet.Script) link {
		l := tcpLink(t)
		return link{l.near, faultnet.Client(l.far.(net.Conn), s)}
	}},
	{"tcp_behind_proxy", proxiedLink},
	{"tls", func(t testing.TB, s faultnet.Script) link {
		l := tlsLink(t)
		return link{l.near, faultnet.Client(l.far.(net.Conn), s)}
	}},
}

// proxiedLink has a forwarder between the ends, so that both have real sockets.
func proxiedLink(t testing.TB, s faultnet.Script) link {
	t.Helper()
	return linkVia(t, func(near string) string {
		p, err := faultnet.Start(near, faultnet.Always(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p.Addr
	})
}

func eachFaulty(t *testing.T, s faultnet.Script, f func(t *testing.T, client link)) {
	for _, k := range faultyLinks {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f(t, k.link(t, s))
		})
	}
}

// Scenario 19: the client ends its direction in the middle of what it would send;
// what the origin still has arrives, however it comes; then the half-close timer
// ends the tunnel. Bytes are exact.
func TestClientEndsTheRestArrives(t *testing.T) {
	const up, down = 70_000, 300_001
	script := faultnet.Script{
		Seed: rand.Uint64(),
		Up:   faultnet.Direction{MaxPiece: 5000, Faults: []faultnet.Fault{faultnet.HalfClose(up)}},
		Down: faultnet.Direction{MaxPiece: 20_000, Jitter: 200 * time.Microsecond},
	}
	t.Logf("seed %d", script.Seed)
	eachFaulty(t, script, func(t *testing.T, client link) {
		origin := tcpLink(t)
		wait := start(t, New(client.near, origin.near, Config{HalfCloseTimeout: time.Second, IdleTimeout: time.Hour}))
		go func() { _, _ = send(client.far, 1, 2*up, false) }()
		if n, _, err := receive(origin.far); n != up || err != nil {
			t.Errorf("the origin got %d bytes, %v; want %d and the end", n, err, up)
		}
		sent := make(chan error, 1)
		go func() { _, err := send(origin.far, 2, down, false); sent <- err }() // and no end
		if n, err := io.Copy(io.Discard, struct{ io.Reader }{client.far}); n != down || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %d bytes, %v; want %d and a reset: it cannot know that this was all", n, err, down)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if res := wait(); res.Reason != ReasonHalfClose || res.BytesUp != up || res.BytesDown != down || res.Err != nil {
			t.Errorf("result %+v; want half_close_timeout, %d up, %d down", res, up, down)
		}
	})
}

// Scenario 20: one byte now and then keeps a tunnel open for longer than the idle
// timeout, and silence closes it. Bytes are exact.
func TestOneByteNowAndThen(t *testing.T) {
	const bytes, idle = 30, time.Second
	up := faultnet.Drip(1, 50*time.Millisecond)
	up.Faults = []faultnet.Fault{faultnet.BlackHole(bytes)}
	eachFaulty(t, faultnet.Script{Up: up}, func(t *testing.T, client link) {
		origin := tcpLink(t)
		wait := start(t, New(client.near, origin.near, Config{IdleTimeout: idle}))
		go func() { _, _ = send(client.far, 1, 2*bytes, true) }()
		if n, _, err := receive(origin.far); n != bytes || err != nil {
			t.Errorf("the origin got %d bytes, %v; want %d and an end", n, err, bytes)
		}
		res := wait()
		if res.Reason != ReasonIdle || res.BytesUp != bytes || res.BytesDown != 0 {
			t.Errorf("result %+v; want idle, %d up", res, bytes)
		}
		if res.Duration < bytes*50*time.Millisecond+idle {
			t.Errorf("closed after %v: before it was idle for %v", res.Duration, idle)
		}
	})
}

// A reset, a truncation and garbage on the way: the first is a reset for the
// origin, the second an orderly end, the third just bytes.
func TestFaultsOfAClient(t *testing.T) {
	for _, tc := range []struct {
		fault faultnet.Fault
		want  Reason
		up    int64
	}{
		{faultnet.Reset(10_000), ReasonClientError, 10_000},
		{faultnet.Truncate(10_000), ReasonClient, 10_000},
		{faultnet.Garbage(10_000, 77), ReasonClient, 20_077},
	} {
		t.Run(tc.fault.Kind.String(), func(t *testing.T) {
			client, origin := proxiedLink(t, faultnet.Script{Up: faultnet.Direction{Faults: []faultnet.Fault{tc.fault}}}), tcpLink(t)
			wait := start(t, New(client.near, origin.near, Config{}))
			go func() { _, _ = send(client.far, 1, 20_000, true) }()
			n, _, err := receive(origin.far)
			if n != tc.up || (err != nil) != (tc.want == ReasonClientError) {
				t.Errorf("the origin got %d bytes, %v; want %d", n, err, tc.up)
			}
			_ = origin.far.CloseWrite()
			if res := wait(); res.Reason != tc.want || res.BytesUp != tc.up {
				t.Errorf("result %+v; want %v, %d up", res, tc.want, tc.up)
			}
		})
	}
}
