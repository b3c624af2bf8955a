package target

import (
	"encoding/binary"
	"net/netip"
)

// maxCarried is the most addresses that one address carries: Teredo has two,
// and any interface identifier may be ISATAP's.
const maxCarried = 3

// Carried returns the IPv4 addresses that an IPv6 address carries inside, in
// embedded[:n]. A gateway, a translator or the kernel may turn a packet to a
// into one to them, so a rule that keeps people away from one of them has to
// look at them as well:
//
//   - IPv4-mapped ::ffff:0:0/96, IPv4-compatible ::/96 (but :: and ::1) and
//     IPv4-translated ::ffff:0:0:0/96 (RFC 4291, Section 2.5.5; RFC 2765)
//   - NAT64 64:ff9b::/96 (RFC 6052, Section 2.1)
//   - NAT64 64:ff9b:1::/48 (RFC 8215), whose users choose a layout of RFC 6052,
//     Section 2.2: the candidates of the /48 and of the /96 layout. One that
//     yields an address in 0.0.0.0/8 is not the one in use, and is left out if
//     the other does not. The /56 and /64 layouts are not looked at.
//   - 6to4 2002::/16 (RFC 3056)
//   - Teredo 2001::/32 (RFC 4380, Section 4): the server and the client
//   - ISATAP, interface identifiers ::0:5efe:a.b.c.d and ::200:5efe:a.b.c.d in
//     any prefix (RFC 5214, Section 6.1)
//
// A zone is ignored. It does not allocate.
func Carried(a netip.Addr) (embedded [maxCarried]netip.Addr, n int) {
	if !a.Is6() {
		return embedded, 0
	}
	b := a.As16()
	top := binary.BigEndian.Uint64(b[:8])
	middle := binary.BigEndian.Uint32(b[8:12])
	last := v4(b[12], b[13], b[14], b[15])

	add := func(c netip.Addr) {
		embedded[n] = c
		n++
	}
	switch {
	case top == 0 && middle == 0:
		if bottom := binary.BigEndian.Uint32(b[12:]); bottom > 1 {
			add(last)
		}
	case top == 0 && (middle == 0xffff || middle == 0xffff0000),
		top == 0x64_ff9b_0000_0000 && middle == 0:
		add(last)
	case top>>16 == 0x64_ff9b_0001:
		short := v4(b[6], b[7], b[9], b[10])
		if !thisNetwork(short) || thisNetwork(last) {
			add(short)
		}
		if !thisNetwork(last) || thisNetwork(short) {
			add(last)
		}
	case top>>48 == 0x2002:
		add(v4(b[2], b[3], b[4], b[5]))
	case top>>32 == 0x2001_0000:
		add(v4(b[4], b[5], b[6], b[7]))
		add(v4(^b[12], ^b[13], ^b[14], ^b[15]))
	}
	if middle == 0x0000_5efe || middle == 0x0200_5efe {
		if n == 0 || embedded[n-1] != last {
			add(last)
		}
	}
	return embedded, n
}

func v4(a, b, c, d byte) netip.Addr { return netip.AddrFrom4([4]byte{a, b, c, d}) }

// thisNetwork tells whether a is in 0.0.0.0/8, which is no destination (RFC
// 1122, Section 3.2.1.3).
func thisNetwork(a netip.Addr) bool { return a.As4()[0] == 0 }
