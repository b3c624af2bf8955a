//go:build linux

package peers_test

import (
	"context"
	"errors"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/peers"
)

// TestConnectThroughTrafficServer is skipped where it is not installed, even
// where peers are required: it is a large package that only the benchmark needs.
func TestConnectThroughTrafficServer(t *testing.T) {
	p, err := peers.StartTrafficServer(context.Background(), "", peers.TrafficServerOptions{})
	if errors.Is(err, peers.ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	c := dial(t, p.Addr)
	status, r := connect(t, c, origin(t), "")
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	echo(t, c, r)
}
