package core

import (
	"context"
	"net"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/target"
)

// Direct is the way out without an upstream: the door that connections leave through,
// and the circuits of the destinations that it leads to.
type Direct struct {
	*dial.Dialer
	Circuits *destination.Path
}

// Dial connects to the destination, with TLS where it is wanted. The result is charged
// to the destination's circuit.
func (d *Direct) Dial(ctx context.Context, dest target.Target, useTLS bool) (net.Conn, error) {
	report, err := d.Circuits.Allow(dest, useTLS, health.ProbeLimit)
	if err != nil {
		return nil, err
	}
	conn, err := d.Dialer.Dial(ctx, dest, useTLS)
	report.Tell(err)
	return conn, err
}
