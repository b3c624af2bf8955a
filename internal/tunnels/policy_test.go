package tunnels

import (
	"net/netip"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

func (b *Book) lists(tun *testTunnel) bool { return slices.Contains(b.Live.all(), tun.slot.live) }

// The oldest configuration is in force until it goes; the next one judges all
// tunnels then. One that goes before it was in force judges none.
func TestLiveTunnels_InForce(t *testing.T) {
	book := newTestBook()
	running := policyOf(t, "deny never.example")
	book.Live.Enter(&running.Policy)
	bad, good := openTestTunnel(t, book, "bad.example:443", "8.8.8.8"), openTestTunnel(t, book, "good.example:443", "8.8.8.8")
	viaBad := openTestTunnel(t, book, "bad.example:443", "")

	failed := policyOf(t, "deny all")
	book.Live.Enter(&failed.Policy)
	book.Live.Changed(&failed.Policy)
	openTestTunnel(t, book, "good.example:443", "8.8.8.8")
	book.Live.Leave(&failed.Policy, false)
	if viaBad.slot.live.addr.IsValid() || !good.slot.live.addr.IsValid() {
		t.Errorf("connected to %v and %v", viaBad.slot.live.addr, good.slot.live.addr)
	}
	if n := len(book.Live.all()); n != 4 {
		t.Fatalf("%d tunnels after a reload that failed", n)
	}

	next := policyOf(t, "deny bad.example")
	book.Live.Enter(&next.Policy)
	book.Live.Leave(&running.Policy, false)
	bad.endedByPolicy(t)
	viaBad.endedByPolicy(t)
	if n := len(book.Live.all()); n != 2 {
		t.Errorf("%d tunnels after a reload that forbids two of four", n)
	}
	// One that was dialed under the old configuration and comes late.
	openTestTunnel(t, book, "bad.example:443", "8.8.8.8").endedByPolicy(t)

	next.access.Put(fixture.AccessList(t, "deny good.example"))
	book.Live.Changed(&next.Policy)
	good.endedByPolicy(t)
	book.Live.Leave(&next.Policy, false)
	if last := openTestTunnel(t, book, "good.example:443", "8.8.8.8"); !book.lists(last) {
		t.Error("without a configuration, a tunnel is not listed")
	}
}

// A configuration that comes judges the tunnels of others by more than its rules: once, when
// it is in force. Those that were opened under it, or under one that is yet to come, are not
// asked about when they begin.
func TestLiveTunnels_Refused(t *testing.T) {
	book := newTestBook()
	refusing := func(client string) *Policy {
		return &Policy{Logger: zap.NewNop(), Refuses: func(a *Asked) bool { return a.Client == netip.MustParseAddr(client) }}
	}
	open := func(client string, under *Policy) *testTunnel {
		asked := Asked{Target: fixture.Target(t, "a.example:443"), Client: netip.MustParseAddr(client)}
		return openTunnelAsked(t, book, asked, "8.8.8.8", under)
	}
	old, next := refusing("192.0.2.1"), refusing("192.0.2.2")
	book.Live.Enter(old)
	bad, good := open("192.0.2.2", old), open("192.0.2.3", old)
	book.Live.Enter(next)
	early := open("192.0.2.1", next) // which the old one would refuse
	book.Live.Changed(old)
	if n := len(book.Live.all()); n != 3 {
		t.Fatalf("%d tunnels before the next configuration is in force, want 3", n)
	}
	book.Live.Leave(old, false)
	bad.endedByPolicy(t)
	open("192.0.2.2", old).endedByPolicy(t) // came late
	own := open("192.0.2.2", next)          // it knows better
	for name, tun := range map[string]*testTunnel{"good": good, "early": early, "own": own} {
		if !book.lists(tun) {
			t.Errorf("%s has ended", name)
		}
	}
}
