package dial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unique"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// The values of prefer_ip.
var Orders = map[string]FamilyOrder{
	"6":      {dnscache.IPv6, false},
	"4":      {dnscache.IPv4, false},
	"6_only": {dnscache.IPv6, true},
	"4_only": {dnscache.IPv4, true},
}

// The values of local_address_pick.
const (
	PickRoundRobin = "round_robin"
	PickUserHash   = "user_hash"
)

// maxInterfaceName is what the kernel takes (IFNAMSIZ without the final zero).
const maxInterfaceName = 15

// ParseAddress parses an IP address of a configuration.
func ParseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, errors.New("not an IP address")
	case a.Zone() != "":
		return a, errors.New("zones are not supported")
	}
	return a.Unmap(), nil
}

// DialResolver connects to DNS servers from the sources, by turn: an answer is for all
// users. nil leaves it to the system.
func (s *Sources) DialResolver() dnscache.Dial {
	var all *Sources
	if s != nil {
		all = &Sources{Addrs: s.Addrs, Device: s.Device}
	}
	return func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		from := all.Pick(ctx)
		if to.Addr().IsLoopback() {
			from = from.onLoopback()
		}
		nd := net.Dialer{Control: descriptors.KeepReserve}
		from.apply(&nd, network, to.Addr())
		return nd.DialContext(ctx, network, to.String())
	}
}

// onLoopback is what is left of a source towards this machine itself, which is out of
// reach from an interface.
func (s Source) onLoopback() Source {
	s.device = ""
	for f, a := range s.Addrs {
		if !a.IsLoopback() {
			s.Addrs[f] = netip.Addr{}
		}
	}
	return s
}

// Leaving is a dialer whose connections leave as these settings say, each of which is
// empty for that of d. The pick goes with the addresses.
func (d *Dialer) Leaving(prefer string, addresses []string, pick, device string) (*Dialer, error) {
	out := *d
	defer func() { out.ID = out.identify() }()
	if prefer != "" {
		order, ok := Orders[prefer]
		if !ok {
			return nil, fmt.Errorf("prefer_ip: unknown value '%s': one of 4, 6, 4_only, 6_only", plaintext.Printable(prefer))
		}
		out.Order = order
	}
	if len(addresses) == 0 && pick == "" && device == "" {
		if err := d.Sources.suit(out.Order); err != nil {
			return nil, fmt.Errorf("prefer_ip: local_addresses of the transport: %w", err)
		}
		return &out, nil
	}
	if d.Sources != nil {
		device = cmp.Or(device, d.Sources.Device)
	}
	var err error
	out.Sources, err = NewSources(addresses, pick, device, out.Order)
	return &out, err
}

// identify names where connections leave from, and to which addresses. Two dialers of
// one transport with the same settings share connections, also over a reload.
func (d *Dialer) identify() unique.Handle[string] {
	var s Sources
	if d.Sources != nil {
		s.Addrs, s.Sticky, s.Device = d.Sources.Addrs, d.Sources.Sticky, d.Sources.Device
	}
	return unique.Make(fmt.Sprint(d.Order.First, d.Order.only, s.Addrs, s.Sticky, s.Device))
}
