package tunnels

import (
	"slices"
	"testing"

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
