package egress

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
	"github.com/caddy-egress/egress/internal/upstream"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// policyOf is a policy with rules such as "deny *.example".
func policyOf(t testing.TB, onChange string, rules ...string) *tunnelPolicy {
	d := &dial.Dialer{Access: fixture.FixedRules(fixture.AccessList(t, rules...)), Self: fixture.Self(nil, nil)}
	return &tunnelPolicy{dialer: d, close: onChange == policyClose, logger: zap.NewNop()}
}

// testTunnel is a tunnel that is listed, and tells its end.
type testTunnel struct {
	slot tunnelSlot
	done chan relay.Result
}

// openTestTunnel opens a tunnel to dest at ip, or, without one, through an upstream.
func openTestTunnel(t testing.TB, book *tunnelBook, dest, ip string) *testTunnel {
	t.Helper()
	tr := &transaction{h: &Handler{tunnel: new(Tunnel).withDefaults()}, target: fixture.Target(t, dest)}
	tun := &testTunnel{slot: tunnelSlot{book: book}, done: make(chan relay.Result, 1)}
	if ip == "" {
		tun.slot.upstream = new(upstream.Health)
		tr.out.remote = netip.MustParseAddr("10.9.9.9") // the upstream's
	} else {
		tr.out.remote = netip.MustParseAddr(ip)
	}
	client, far := net.Pipe()
	origin, farther := net.Pipe()
	t.Cleanup(func() { far.Close(); farther.Close() })
	r := relay.New(closeOnly{client}, closeOnly{origin}, relay.Config{})
	tr.follow(r, &tun.slot)
	tun.slot.upstream = nil // it has no counts to give back
	r.Start(func(result relay.Result) {
		tun.slot.release()
		tun.done <- result
	})
	t.Cleanup(func() { r.End(0); <-tun.done })
	return tun
}

// endedByPolicy waits for the end of a tunnel.
func (tun *testTunnel) endedByPolicy(t *testing.T) {
	t.Helper()
	select {
	case result := <-tun.done:
		if result.Reason != relay.ReasonPolicy {
			t.Errorf("ended with %v", result.Reason)
		}
		tun.done <- result
	case <-time.After(20 * time.Second):
		t.Fatal("the tunnel has not ended")
	}
}

func (b *tunnelBook) lists(tun *testTunnel) bool { return slices.Contains(b.live.all(), tun.slot.live) }

// The list holds what was added and not removed, however that goes.
func TestLiveTunnels_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s liveTunnels
		s.enter(new(tunnelPolicy))
		var want []*liveTunnel
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			if len(want) == 0 || rapid.Bool().Draw(t, "add") {
				l := new(liveTunnel)
				s.add(l, 0)
				want = append(want, l)
			} else {
				i := rapid.IntRange(0, len(want)-1).Draw(t, "which")
				s.remove(want[i])
				want = slices.Delete(want, i, i+1)
			}
			got := s.all()
			slices.Reverse(got) // the last comes first
			if !slices.Equal(got, want) || s.count != len(want) {
				t.Fatalf("%d listed, %d counted, want %d", len(got), s.count, len(want))
			}
		}
	})
}

// What a policy forbids: by name, by port, by the address it is connected to; an
// upstream's address is not that of the destination.
func TestTunnelPolicy_Forbids(t *testing.T) {
	for _, tc := range []struct {
		rules    []string
		dest, ip string
		want     bool
	}{
		{[]string{"deny *.bad.example"}, "x.bad.example:443", "8.8.8.8", true},
		{[]string{"deny *.bad.example"}, "good.example:443", "8.8.8.8", false},
		{[]string{"deny *.bad.example"}, "x.bad.example:443", "", true},
		{[]string{"deny 8.8.8.0/24"}, "good.example:443", "8.8.8.8", true},
		{[]string{"deny 8.8.8.0/24"}, "good.example:443", "8.8.4.4", false},
		{[]string{"deny 8.8.8.0/24"}, "8.8.8.8:443", "", true},
		{[]string{"deny 8.8.8.8:443"}, "good.example:443", "8.8.8.8", true},
		{[]string{"deny 8.8.8.8:443"}, "good.example:80", "8.8.8.8", false},
		{[]string{"deny 10.0.0.0/8"}, "good.example:443", "", false}, // where the upstream is
		{nil, "good.example:443", "", false},
		{nil, "good.example:443", "10.0.0.1", true}, // by default
		{[]string{"allow private"}, "good.example:443", "10.0.0.1", false},
		{nil, "good.example:25", "8.8.8.8", true},
	} {
		l := &liveTunnel{target: fixture.Target(t, tc.dest)}
		if tc.ip != "" {
			l.addr = netip.MustParseAddr(tc.ip)
		}
		if got := policyOf(t, policyClose, tc.rules...).forbids(l); got != tc.want {
			t.Errorf("%v, %s at %q: %t", tc.rules, tc.dest, tc.ip, got)
		}
		if policyOf(t, policyKeep, tc.rules...).forbids(l) {
			t.Errorf("%v, %s at %q: forbidden though it is to be kept", tc.rules, tc.dest, tc.ip)
		}
	}
	// A listener of ours is forbidden, unless a rule opens it by address and port.
	l := &liveTunnel{target: target.Target{Host: "x.example", Port: 8080}, addr: netip.MustParseAddr("127.0.0.1")}
	for rule, want := range map[string]bool{"allow 127.0.0.0/8": true, "allow 127.0.0.1:8080": false} {
		p := policyOf(t, policyClose, rule)
		p.dialer.Self = fixture.Self([]string{"tcp/127.0.0.1:8080"}, nil)
		if got := p.forbids(l); got != want {
			t.Errorf("%s, our own listener: %t", rule, got)
		}
	}
}

// The oldest configuration is in force until it goes; the next one judges all
// tunnels then. One that goes before it was in force judges none.
func TestLiveTunnels_InForce(t *testing.T) {
	book := new(tunnelBook)
	running := policyOf(t, policyClose, "deny never.example")
	book.live.enter(running)
	bad, good := openTestTunnel(t, book, "bad.example:443", "8.8.8.8"), openTestTunnel(t, book, "good.example:443", "8.8.8.8")
	viaBad := openTestTunnel(t, book, "bad.example:443", "")

	failed := policyOf(t, policyClose, "deny all")
	book.live.enter(failed)
	book.live.changed(failed)
	openTestTunnel(t, book, "good.example:443", "8.8.8.8")
	book.live.leave(failed)
	if viaBad.slot.live.addr.IsValid() || !good.slot.live.addr.IsValid() {
		t.Errorf("connected to %v and %v", viaBad.slot.live.addr, good.slot.live.addr)
	}
	if n := len(book.live.all()); n != 4 {
		t.Fatalf("%d tunnels after a reload that failed", n)
	}

	next := policyOf(t, policyClose, "deny bad.example")
	book.live.enter(next)
	book.live.leave(running)
	bad.endedByPolicy(t)
	viaBad.endedByPolicy(t)
	if n := len(book.live.all()); n != 2 {
		t.Errorf("%d tunnels after a reload that forbids two of four", n)
	}
	// One that was dialed under the old configuration and comes late.
	openTestTunnel(t, book, "bad.example:443", "8.8.8.8").endedByPolicy(t)

	next.dialer.Access.Put(fixture.AccessList(t, "deny good.example"))
	book.live.changed(next)
	good.endedByPolicy(t)
	book.live.leave(next)
	if last := openTestTunnel(t, book, "good.example:443", "8.8.8.8"); !book.lists(last) {
		t.Error("without a configuration, a tunnel is not listed")
	}
}

// While rules change and tunnels come and go, none is left in the end that the last
// rules forbid: it was listed in time, or asked the new rules itself.
func TestLiveTunnels_Race(t *testing.T) {
	book := new(tunnelBook)
	p := policyOf(t, policyClose)
	book.live.enter(p)
	var wg sync.WaitGroup
	tunnels := make(chan *testTunnel, 200)
	for range 4 {
		wg.Go(func() {
			for range 50 {
				tunnels <- openTestTunnel(t, book, "bad.example:443", "8.8.8.8")
			}
		})
	}
	wg.Go(func() {
		p.dialer.Access.Put(fixture.AccessList(t, "deny bad.example"))
		book.live.changed(p)
	})
	wg.Wait()
	close(tunnels)
	for tun := range tunnels {
		tun.endedByPolicy(t)
	}
	if n := len(book.live.all()); n != 0 {
		t.Errorf("%d tunnels are still listed", n)
	}
}
