package dnscache

import (
	"context"
	"errors"
	"net"
)

// System is the resolver of the operating system.
type System struct {
	// Resolver is the resolver to ask. Default: net.DefaultResolver.
	Resolver *net.Resolver
}

// Lookup asks for name as absolute: search domains would let a client reach
// names that it did not say.
func (s System) Lookup(ctx context.Context, name string, f Family) (Reply, error) {
	network := "ip4"
	if f == IPv6 {
		network = "ip6"
	}
	r := s.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	addrs, err := r.LookupNetIP(ctx, network, name+".")
	var d *net.DNSError
	if errors.As(err, &d) && d.IsNotFound {
		return Reply{TTL: SystemTTL}, nil
	}
	return Reply{Addrs: addrs, TTL: SystemTTL}, err
}

// CloseIdle does nothing: the system resolver keeps no connections.
func (System) CloseIdle() {}

// Interface guards
var _ Backend = System{}
