package core

import (
	"context"
	"net"

	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/layers"
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
	report, err := d.Circuits.Allow(dest, useTLS, d.Sources.SlotIn(ctx), health.ProbeLimit)
	if err != nil {
		return nil, err
	}
	if report.Probes() {
		return d.probe(ctx, dest, useTLS, report)
	}
	conn, err := d.Dialer.Dial(ctx, dest, useTLS)
	report.Tell(err)
	return conn, err
}

// probe dials for the probe of a circuit, and goes on to its end where the client leaves:
// clients that do so must not keep the destination from all others.
func (d *Direct) probe(ctx context.Context, dest target.Target, useTLS bool, report destination.Charge) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	dialed := make(chan result, 1)
	go func() {
		conn, err := d.Dialer.Dial(context.WithoutCancel(ctx), dest, useTLS)
		report.Tell(err)
		dialed <- result{conn, err}
	}()
	select {
	case r := <-dialed:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-dialed; r.err == nil {
				_ = layers.Close(r.conn)
			}
		}()
		return nil, ctx.Err()
	}
}
