package tunnels

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// testPolicy is a policy whose rules can be changed.
type testPolicy struct {
	Policy
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
	return &testPolicy{Policy{Forbids: forbids, Logger: zap.NewNop()}, access}
}

func newTestBook() *Book { return newBook(":8080#1", zap.NewNop) }

// testStream is a connection that cannot be closed for writing alone.
type testStream struct{ net.Conn }

func (s testStream) CloseWrite() error { return s.Close() }

// noUpstream is one whose tunnels are not counted.
type noUpstream struct{}

func (noUpstream) EndTunnel() {}

// testTunnel is a tunnel that is listed, and tells its end.
type testTunnel struct {
	slot Slot
	done chan relay.Result
}

// openTestTunnel opens a tunnel to dest at ip, or, without one, through an upstream.
func openTestTunnel(t testing.TB, book *Book, dest, ip string) *testTunnel {
	t.Helper()
	return openTunnelAsked(t, book, Asked{Target: fixture.Target(t, dest)}, ip, nil)
}

// openTunnelAsked does so for a request under a policy.
func openTunnelAsked(t testing.TB, book *Book, asked Asked, ip string, under *Policy) *testTunnel {
	t.Helper()
	tun := &testTunnel{slot: Slot{book: book}, done: make(chan relay.Result, 1)}
	var addr netip.Addr
	if ip != "" {
		addr = netip.MustParseAddr(ip)
	} else {
		tun.slot.Upstream = noUpstream{}
	}
	client, far := net.Pipe()
	origin, farther := net.Pipe()
	t.Cleanup(func() { far.Close(); farther.Close() })
	r := relay.New(testStream{client}, testStream{origin}, relay.Config{})
	tun.slot.Follow(r, asked, addr, under, 30*time.Second)
	r.Start(func(result relay.Result) {
		tun.slot.Release()
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
