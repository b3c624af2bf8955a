package acl

import (
	"net/netip"
	"slices"
)

// The addresses that are denied unless a rule on addresses allows them: what
// the IANA special-purpose registries (RFC 6890) do not call globally
// reachable, what is not unicast, and where clouds serve credentials.

// Default denials, by kind. Their text is what logs show as the rule.
var (
	denyUnspecified   = &Denial{Reason: DenyAddress, Rule: "default deny: unspecified"}
	DenyLoopback      = &Denial{Reason: DenyAddress, Rule: "default deny: loopback"}
	DenyPrivate       = &Denial{Reason: DenyAddress, Rule: "default deny: private"}
	denyLinkLocal     = &Denial{Reason: DenyAddress, Rule: "default deny: link-local"}
	denyMetadata      = &Denial{Reason: DenyAddress, Rule: "default deny: cloud metadata"}
	denyMulticast     = &Denial{Reason: DenyAddress, Rule: "default deny: multicast"}
	denyBroadcast     = &Denial{Reason: DenyAddress, Rule: "default deny: broadcast"}
	denyBenchmark     = &Denial{Reason: DenyAddress, Rule: "default deny: benchmark"}
	denyDocumentation = &Denial{Reason: DenyAddress, Rule: "default deny: documentation"}
	denyReserved      = &Denial{Reason: DenyAddress, Rule: "default deny: reserved"}
)

// privatePrefixes is what the subject `private` means: RFC 1918, RFC 6598 and
// RFC 4193.
var privatePrefixes = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("fc00::/7"),
}

// special is an entry of a table in which the first match counts, so that an
// exception stands before what it is an exception from. A nil denial is no
// denial.
type special struct {
	prefix netip.Prefix
	denial *Denial
}

var special4 = slices.Concat(
	// Metadata services outside of link-local: Alibaba, Volcengine, Azure's
	// WireServer (a public address) and Oracle.
	specials(denyMetadata, "100.100.100.200/32", "100.96.0.96/32", "168.63.129.16/32", "192.0.0.192/32"),
	// RFC 791: this network. A Linux host takes 0.0.0.0 as itself.
	specials(denyUnspecified, "0.0.0.0/8"),
	specials(DenyLoopback, "127.0.0.0/8"),
	// RFC 1918, and RFC 6598: carrier-grade NAT.
	specials(DenyPrivate, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
	// RFC 3927, with most metadata services.
	specials(denyLinkLocal, "169.254.0.0/16"),
	// RFC 5737
	specials(denyDocumentation, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
	// RFC 2544
	specials(denyBenchmark, "198.18.0.0/15"),
	specials(denyMulticast, "224.0.0.0/4"),
	specials(denyBroadcast, "255.255.255.255/32"),
	// Protocol assignments (RFC 6890), 6to4 relays (deprecated by RFC 7526) and
	// class E (RFC 1112).
	specials(denyReserved, "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4"),
)

// special4By are the entries of special4 for addresses by their first byte: most have none.
var special4By = byFirstByte(special4)

func byFirstByte(table []special) (by [256][]special) {
	for _, s := range table {
		first := int(s.prefix.Addr().As4()[0])
		last := first | 0xff>>min(s.prefix.Bits(), 8)
		for b := first; b <= last; b++ {
			by[b] = append(by[b], s)
		}
	}
	return by
}

var special6 = slices.Concat(
	// A Linux host takes :: as itself.
	specials(denyUnspecified, "::/128"),
	specials(DenyLoopback, "::1/128"),
	// Metadata services outside of link-local: all of AWS's local services,
	// Google, Scaleway, Akamai (Linode) and OpenStack, Oracle, Alibaba.
	specials(denyMetadata, "fd00:ec2::/32", "fd20:ce::254/128", "fd00:42::42/128",
		"fd00:a9fe:a9fe::/64", "fd00:c1::a9fe:a9fe/128", "fd00:100::100:200/128"),
	specials(DenyPrivate, "fc00::/7"),
	specials(denyLinkLocal, "fe80::/10"),
	specials(denyMulticast, "ff00::/8"),
	// RFC 3849, RFC 9637
	specials(denyDocumentation, "2001:db8::/32", "3fff::/20"),
	// RFC 5180
	specials(denyBenchmark, "2001:2::/48"),
	// In the block for protocol assignments (RFC 2928) some are reachable:
	// Teredo (judged by the addresses it carries), anycast of PCP, TURN and
	// DNS-SD SRP, AMT, AS 112, ORCHIDv2 and drone identifiers.
	specials(nil, "2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128",
		"2001:3::/32", "2001:4:112::/48", "2001:20::/28", "2001:30::/28"),
	specials(denyReserved, "2001::/23"),
	// Global unicast, in which 6to4 is judged by the address it carries, and
	// the well-known NAT64 prefix, likewise.
	specials(nil, "2000::/3", "64:ff9b::/96"),
	// IANA has given out nothing else: IPv4-compatible and -translated, NAT64
	// for local use, discard-only, segment routing, site-local and the rest.
	specials(denyReserved, "::/0"),
)

// specials makes the entries of one kind.
func specials(d *Denial, prefixes ...string) []special {
	table := make([]special, len(prefixes))
	for i, p := range prefixes {
		table[i] = special{netip.MustParsePrefix(p), d}
	}
	return table
}

// specialAddr returns the default denial of an address, or nil. The address
// must not be IPv4-mapped and must have no zone.
func specialAddr(ip netip.Addr) *Denial {
	table := special6
	if ip.Is4() {
		table = special4By[ip.As4()[0]]
	}
	for i := range table {
		if table[i].prefix.Contains(ip) {
			return table[i].denial
		}
	}
	return nil
}

// isPrivate reports whether the subject `private` is about an address.
func isPrivate(ip netip.Addr) bool {
	for _, p := range privatePrefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
