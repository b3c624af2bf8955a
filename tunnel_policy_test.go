package egress

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/testkit/fixture"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
)

// testPolicy is a policy whose rules can be changed.
type testPolicy struct {
	tunnelPolicy
	access *acl.Rules
}

// policyOf is a policy that ends tunnels by rules such as "deny *.example".
func policyOf(t testing.TB, rules ...string) *testPolicy {
	access := fixture.FixedRules(fixture.AccessList(t, rules...))
	forbids := func(dest target.Target, addr netip.Addr) bool {
		if addr.IsValid() {
			return access.Now().CheckAddr(dest, addr) != nil
		}
		return access.Now().CheckUnresolved(dest) != nil
	}
	return &testPolicy{tunnelPolicy{forbids: forbids, logger: zap.NewNop()}, access}
}

func newTestBook() *tunnelBook { return newTunnelBook(zap.NewNop) }

// testStream is a connection that cannot be closed for writing alone.
type testStream struct{ net.Conn }

func (s testStream) CloseWrite() error { return s.Close() }

// noUpstream is one whose tunnels are not counted.
type noUpstream struct{}

func (noUpstream) EndTunnel() {}

// testTunnel is a tunnel that is listed, and tells its end.
type testTunnel struct {
	slot tunnelSlot
	done chan relay.Result
}

// openTestTunnel opens a tunnel to dest at ip, or, without one, through an upstream.
func openTestTunnel(t testing.TB, book *tunnelBook, dest, ip string) *testTunnel {
	t.Helper()
	tun := &testTunnel{slot: tunnelSlot{book: book}, done: make(chan relay.Result, 1)}
	if ip == "" {
		tun.slot.upstream = noUpstream{}
		ip = "10.9.9.9" // the upstream's
	}
	client, far := net.Pipe()
	origin, farther := net.Pipe()
	t.Cleanup(func() { far.Close(); farther.Close() })
	r := relay.New(testStream{client}, testStream{origin}, relay.Config{})
	tun.slot.follow(r, fixture.Target(t, dest), netip.MustParseAddr(ip), 30*time.Second)
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

// The oldest configuration is in force until it goes; the next one judges all
// tunnels then. One that goes before it was in force judges none.
func TestLiveTunnels_InForce(t *testing.T) {
	book := newTestBook()
	running := policyOf(t, "deny never.example")
	book.live.enter(&running.tunnelPolicy)
	bad, good := openTestTunnel(t, book, "bad.example:443", "8.8.8.8"), openTestTunnel(t, book, "good.example:443", "8.8.8.8")
	viaBad := openTestTunnel(t, book, "bad.example:443", "")

	failed := policyOf(t, "deny all")
	book.live.enter(&failed.tunnelPolicy)
	book.live.changed(&failed.tunnelPolicy)
	openTestTunnel(t, book, "good.example:443", "8.8.8.8")
	book.live.leave(&failed.tunnelPolicy, false)
	if viaBad.slot.live.addr.IsValid() || !good.slot.live.addr.IsValid() {
		t.Errorf("connected to %v and %v", viaBad.slot.live.addr, good.slot.live.addr)
	}
	if n := len(book.live.all()); n != 4 {
		t.Fatalf("%d tunnels after a reload that failed", n)
	}

	next := policyOf(t, "deny bad.example")
	book.live.enter(&next.tunnelPolicy)
	book.live.leave(&running.tunnelPolicy, false)
	bad.endedByPolicy(t)
	viaBad.endedByPolicy(t)
	if n := len(book.live.all()); n != 2 {
		t.Errorf("%d tunnels after a reload that forbids two of four", n)
	}
	// One that was dialed under the old configuration and comes late.
	openTestTunnel(t, book, "bad.example:443", "8.8.8.8").endedByPolicy(t)

	next.access.Put(fixture.AccessList(t, "deny good.example"))
	book.live.changed(&next.tunnelPolicy)
	good.endedByPolicy(t)
	book.live.leave(&next.tunnelPolicy, false)
	if last := openTestTunnel(t, book, "good.example:443", "8.8.8.8"); !book.lists(last) {
		t.Error("without a configuration, a tunnel is not listed")
	}
}

// While rules change and tunnels come and go, none is left in the end that the last
// rules forbid: it was listed in time, or asked the new rules itself.
func TestLiveTunnels_Race(t *testing.T) {
	book := newTestBook()
	p := policyOf(t)
	book.live.enter(&p.tunnelPolicy)
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
		p.access.Put(fixture.AccessList(t, "deny bad.example"))
		book.live.changed(&p.tunnelPolicy)
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
