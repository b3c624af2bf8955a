// Package peertest gives tests the programs of package peers. A test whose
// program is not installed is skipped; with EGRESS_REQUIRE_PEERS=1 it fails. The
// program is stopped when the test ends.
package peertest

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/peers"
)

// Squid starts an HTTP/1.1 forward proxy.
func Squid(t testing.TB, o peers.SquidOptions) *peers.Peer {
	t.Helper()
	return start(t, peers.StartSquid, o)
}

// Tinyproxy starts another HTTP/1 forward proxy.
func Tinyproxy(t testing.TB, o peers.TinyproxyOptions) *peers.Peer {
	t.Helper()
	return start(t, peers.StartTinyproxy, o)
}

// Nghttpx starts an HTTP/2 forward proxy over TLS in front of o.Backend.
func Nghttpx(t testing.TB, o peers.NghttpxOptions) *peers.Peer {
	t.Helper()
	return start(t, peers.StartNghttpx, o)
}

// Microsocks starts a SOCKS5 proxy.
func Microsocks(t testing.TB, o peers.MicrosocksOptions) *peers.Peer {
	t.Helper()
	return start(t, peers.StartMicrosocks, o)
}

// Prometheus starts a Prometheus.
func Prometheus(t testing.TB, o peers.PrometheusOptions) *peers.Peer {
	t.Helper()
	return start(t, peers.StartPrometheus, o)
}

// Again starts a peer anew that was stopped or killed, on the port it had.
func Again(t testing.TB, p *peers.Peer) *peers.Peer {
	t.Helper()
	p, err := p.Again(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func start[O any](t testing.TB, start func(context.Context, string, O) (*peers.Peer, error), o O) *peers.Peer {
	t.Helper()
	p, err := start(context.Background(), "", o)
	switch {
	case errors.Is(err, peers.ErrNotInstalled) && os.Getenv("EGRESS_REQUIRE_PEERS") != "1":
		t.Skipf("%v; set EGRESS_REQUIRE_PEERS=1 to fail instead", err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}
