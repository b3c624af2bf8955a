package dnscache

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
)

// System is the resolver of the operating system.
type System struct {
	// Resolver is the resolver to ask. Default: net.DefaultResolver.
	Resolver *net.Resolver

	// HostsFile is a hosts file in which the names of DNS servers are looked up first: Go
	// finds no name of one label there that is asked for as absolute, and localhost is one.
	// Of other names, the cache knows what is in it. Default: none.
	HostsFile string
}

// Lookup asks for name as absolute: search domains would let a client reach
// names that it did not say.
func (s System) Lookup(ctx context.Context, name string, f Family) (Reply, error) {
	network := "ip4"
	if f == IPv6 {
		network = "ip6"
	}
	addrs, err := s.lookup(ctx, network, name)
	var d *net.DNSError
	if errors.As(err, &d) && d.IsNotFound {
		return Reply{TTL: SystemTTL}, nil
	}
	return Reply{Addrs: addrs, TTL: SystemTTL}, err
}

// lookup asks for a name as absolute, in the networks `ip4`, `ip6` or `ip`. Of what its
// dials fail with, Go's resolver passes on the text alone. Where it was a lack of
// descriptors, which says nothing about the name, the error is put back in.
func (s System) lookup(ctx context.Context, network, name string) ([]netip.Addr, error) {
	r := s.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	dial := r.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var own atomic.Pointer[error]
	// Of its own, since a resolver gives the answer to one to others who ask the same.
	noting := &net.Resolver{PreferGo: r.PreferGo, StrictErrors: r.StrictErrors, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil && isOwnFault(err) {
			own.Store(&err)
		}
		return conn, err
	}}
	addrs, err := noting.LookupNetIP(ctx, network, name+".")
	if d, ok := errors.AsType[*net.DNSError](err); ok && !d.IsNotFound && own.Load() != nil {
		out := *d
		out.UnwrapErr = *own.Load()
		return addrs, &out
	}
	return addrs, err
}

// CloseIdle does nothing: the system resolver keeps no connections.
func (System) CloseIdle() {}

// Interface guards
var _ Backend = System{}
