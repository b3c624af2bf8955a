package dial

import (
	"context"
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/target"
)

// hopTo is the way to a destination, with its rules.
func (d *Dialer) hopTo(dest target.Target) Hop {
	return Hop{
		host:  dest.Host,
		addr:  dest.Addr,
		port:  dest.Port,
		check: func(a netip.Addr) error { return d.Check(dest, a) },
	}
}

// collect resolves the name of a hop and waits for all of its addresses in the families
// of order. Once there are some, those of a family that nobody tells are waited for
// as long as one DNS server may take: resolvers that never answer for one family are
// common, and their silence says nothing about the addresses that are known.
func (d *Dialer) collect(ctx context.Context, to Hop, order FamilyOrder) (*candidates, error) {
	return d.collectWithin(ctx, to, order, nil)
}

// collectWithin is collect where nobody waits any longer once over is ready to be received
// from: what is known by then is all there is.
func (d *Dialer) collectWithin(ctx context.Context, to Hop, order FamilyOrder, over <-chan time.Time) (*candidates, error) {
	list := newCandidates(order, d.Names.failed, to)
	if to.addr.IsValid() {
		list.add(dnscache.Answer{Addrs: []netip.Addr{to.addr}})
		return list, nil
	}
	var late <-chan time.Time
	for arrivals := d.Names.resolve(ctx, to.host, order, list, d.Recorder); arrivals != nil; {
		if late == nil && (list.len() > 0 || list.refused != nil) {
			timer := time.NewTimer(dnscache.TryTimeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case answer, ok := <-arrivals:
			if !ok && ctx.Err() != nil && list.waits() {
				return nil, list.failure(ctx) // there are no more since time is over
			}
			if !ok {
				arrivals = nil
				continue
			}
			list.add(answer)
		case <-late:
			return list, nil
		case <-over:
			return list, nil
		case <-ctx.Done():
			return nil, list.failure(ctx)
		}
	}
	return list, nil
}

// ForUpstreams is a dialer for upstream proxies. It holds nothing of the handler
// but what its transport is made of: it outlives the configuration.
func (d *Dialer) ForUpstreams() *Dialer {
	c := *d
	c.Access, c.TLSConfig, c.Recorder = nil, nil, nil
	return &c
}
