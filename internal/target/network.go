package target

import "net/netip"

// mappedBits is the length of the network of IPv4 within IPv6, ::ffff:0:0/96.
const mappedBits = 96

// Unmapped is a network as addresses are matched with it: one of IPv4 within IPv6 is the IPv4
// network that it means. ok is false for one of which that is a part only.
func Unmapped(p netip.Prefix) (_ netip.Prefix, ok bool) {
	switch {
	case !p.Addr().Is4In6():
		return p, true
	case p.Bits() < mappedBits:
		return p, false
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mappedBits), true
}
