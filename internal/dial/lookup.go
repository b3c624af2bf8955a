package dial

import (
	"context"
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/target"
)

// Lookup returns the address of dest to be reached: the first that is known and may
// be. Addresses of the other family are not waited for.
func (d *Dialer) Lookup(ctx context.Context, dest target.Target) (netip.Addr, error) {
	return d.firstOf(ctx, d.hopTo(dest))
}

// LookupUnchecked resolves a name that the operator has written: no rule is about it.
func (d *Dialer) LookupUnchecked(ctx context.Context, host string) (netip.Addr, error) {
	return d.firstOf(ctx, Hop{host: host, port: 1, check: func(netip.Addr) error { return nil }})
}

// firstOf closes idle connections where there was no descriptor to ask with, as dial does.
func (d *Dialer) firstOf(ctx context.Context, to Hop) (netip.Addr, error) {
	a, err := d.firstOnce(ctx, to)
	if err != nil && descriptors.MakeRoom(err) {
		return d.firstOnce(ctx, to)
	}
	return a, err
}

func (d *Dialer) firstOnce(parent context.Context, to Hop) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(parent, d.Timeout)
	defer cancel()
	list := newCandidates(d.Order, d.Names.failed, to)
	for arrivals := d.Names.resolve(ctx, to.host, d.Order, list); ; {
		if a, ok := list.next(); ok {
			return a, nil
		}
		if arrivals == nil {
			return netip.Addr{}, list.failure(ctx)
		}
		select {
		case answer, ok := <-arrivals:
			if !ok {
				arrivals = nil
			}
			list.add(answer)
		case <-ctx.Done():
			return netip.Addr{}, list.failure(ctx)
		}
	}
}

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
	list := newCandidates(order, d.Names.failed, to)
	if to.addr.IsValid() {
		list.add(dnscache.Answer{Addrs: []netip.Addr{to.addr}})
		return list, nil
	}
	var late <-chan time.Time
	for arrivals := d.Names.resolve(ctx, to.host, order, list); arrivals != nil; {
		if late == nil && (list.len() > 0 || list.refused != nil) {
			timer := time.NewTimer(dnscache.TryTimeout)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case answer, ok := <-arrivals:
			if !ok {
				arrivals = nil
				continue
			}
			list.add(answer)
		case <-late:
			return list, nil
		case <-ctx.Done():
			return nil, list.failure(ctx)
		}
	}
	return list, nil
}

// CheckNames resolves a name that an upstream will resolve, and refuses it if any of
// its addresses may not be reached: which of them the upstream takes, and of which
// family, is not ours to say.
func (d *Dialer) CheckNames(ctx context.Context, dest target.Target) error {
	if dest.IsAddr() {
		return d.Access.Now().CheckAddr(dest, dest.Addr)
	}
	err := d.checkNames(ctx, dest)
	if err != nil && descriptors.MakeRoom(err) {
		return d.checkNames(ctx, dest)
	}
	return err
}

func (d *Dialer) checkNames(parent context.Context, dest target.Target) error {
	ctx, cancel := context.WithTimeout(parent, d.Timeout)
	defer cancel()
	list, err := d.collect(ctx, d.hopTo(dest), d.Order.Both())
	switch {
	case err != nil:
		return err
	case list.refused != nil:
		return list.refused
	case list.len() == 0:
		return list.failure(ctx)
	}
	return nil
}

// ForUpstreams is a dialer for upstream proxies. It holds nothing of the handler
// but what its transport is made of: it outlives the configuration.
func (d *Dialer) ForUpstreams() *Dialer {
	c := *d
	c.Access, c.TLSConfig = nil, nil
	return &c
}
