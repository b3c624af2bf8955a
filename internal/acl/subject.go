package acl

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/target"
)

// subject is what one subject of an ACL rule means: `all`, a name, or prefixes.
type subject struct {
	all      bool
	name     string // canonical, without "*."
	wildcard bool   // name and everything below it
	prefixes []netip.Prefix
	port     uint16 // of an IP:port; 0 is every port
	private  bool   // written as `private`
}

// CheckSubject reports what is wrong with a subject, nil if nothing is.
func CheckSubject(s string) error {
	_, err := parseWritten(s)
	return err
}

// parseWritten parses a subject that somebody has written, in contrast to those of
// lists from elsewhere: an IPv6 address without brackets may have been meant as one with a
// port.
func parseWritten(s string) (subject, error) {
	if rest, port, ok := target.PortBehindIPv6(s); ok {
		return subject{}, fmt.Errorf("ambiguous; write '[%s]:%s' for one port, '%s' for all ports, or '[%s]' if all of it is the address", rest, port, rest, s)
	}
	return parseSubject(s)
}

// parseSubject parses a subject of an ACL rule. Names and addresses become
// canonical like those of requests, so that a rule means the same destination
// in whatever spelling it is written. The error says what is right.
func parseSubject(s string) (subject, error) {
	switch {
	case s == "all":
		return subject{all: true}, nil
	case s == "private":
		return subject{prefixes: privatePrefixes, private: true}, nil
	case s == "":
		return subject{}, errors.New("empty; write 'all', a host name, an IP address or a CIDR")
	case strings.EqualFold(s, "all") || strings.EqualFold(s, "private"):
		return subject{}, fmt.Errorf("write '%s' in lower case", strings.ToLower(s))
	case s == "*":
		return subject{}, errors.New("write 'all' for every destination")
	case strings.Contains(s, "://"):
		return subject{}, errors.New("a URL; write its host only")
	case strings.Contains(s, "/"):
		return parseCIDR(s)
	case strings.Contains(s, "*"):
		return parseWildcard(s)
	}
	return parseHostSubject(s)
}

// parseHostSubject parses a host name, an IP address or an IP:port.
func parseHostSubject(s string) (subject, error) {
	host, addr, err := target.ParseHost(s)
	switch {
	case err == nil && addr.IsValid():
		return subject{prefixes: []netip.Prefix{singleAddr(addr)}}, checkUsual(s, addr)
	case err == nil:
		return subject{name: host}, nil
	case strings.HasPrefix(s, ".") && CheckSubject("*"+s) == nil:
		return subject{}, fmt.Errorf("begins with a dot; write '*%s'", s)
	case !strings.Contains(s, ":"):
		return subject{}, target.ReasonOf(err)
	}
	t, err := target.ParseAuthority(s)
	if err != nil {
		return subject{}, target.ReasonOf(err)
	}
	if !t.IsAddr() {
		return subject{}, fmt.Errorf("a host name takes no port; write '%s'", t.Host)
	}
	written, _, _ := strings.Cut(s, ":")
	return subject{prefixes: []netip.Prefix{singleAddr(t.Addr)}, port: t.Port}, checkUsual(written, t.Addr)
}

// checkUsual refuses an IPv4 address that is not written as four decimal numbers. Requests
// may have it as resolvers read it, which is not how people do: '10.1' is 10.0.0.1, and
// '192.168.001.010' is 192.168.1.8.
func checkUsual(written string, a netip.Addr) error {
	if !a.Is4() || strings.ContainsAny(written, ":[") || written == a.String() {
		return nil
	}
	return fmt.Errorf("would be the address %s; write '%s' if that is meant, and a CIDR such as '10.0.0.0/8' for a range", a, a)
}

// parseWildcard parses "*.example.com".
func parseWildcard(s string) (subject, error) {
	rest, ok := strings.CutPrefix(s, "*.")
	if !ok || strings.Contains(rest, "*") {
		return subject{}, errors.New("a wildcard stands for whole labels at the start; write '*.example.com'")
	}
	host, addr, err := target.ParseHost(rest)
	if err != nil {
		return subject{}, target.ReasonOf(err)
	}
	if addr.IsValid() {
		return subject{}, errors.New("a wildcard needs a host name; write a CIDR for a range of addresses, such as '10.0.0.0/8'")
	}
	return subject{name: host, wildcard: true}, nil
}

// parseCIDR parses a CIDR. One that is IPv4-mapped becomes the IPv4 one it
// means, as addresses do before they are matched.
func parseCIDR(s string) (subject, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return subject{}, errors.New(badCIDR(s))
	}
	p, ok := target.Unmapped(p)
	if !ok {
		return subject{}, errors.New("an IPv4-mapped CIDR needs a length of at least 96; write IPv4, such as '10.0.0.0/8'")
	}
	if right := p.Masked(); right != p {
		// Either the length or the address is a mistake. Guessing could open
		// or close more than was meant.
		return subject{}, fmt.Errorf("the address has bits beyond its length; write '%s', or '%s' for the address alone", right, p.Addr())
	}
	return subject{prefixes: []netip.Prefix{p}}, nil
}

// badCIDR says what is wrong with a text that has a slash but is no CIDR.
func badCIDR(s string) string {
	text, bits, _ := strings.Cut(s, "/")
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		if n, err := strconv.Atoi(bits); err != nil || n < 0 || n > a.BitLen() {
			return fmt.Sprintf("the length behind the slash is a number from 0 to %d", a.BitLen())
		}
	}
	return "not a CIDR; write an address and a length, such as '10.0.0.0/8' or '2001:db8::/32'"
}

func singleAddr(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
