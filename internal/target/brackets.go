package target

import (
	"net/netip"
	"strconv"
	"strings"
)

// PortBehindIPv6 splits an IPv6 address without brackets whose last group may have been
// meant as a port: `::1:443`. A single digit is taken for no port.
func PortBehindIPv6(s string) (addr, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	addr, port = s[:i], s[i+1:]
	a, err := netip.ParseAddr(addr)
	if err != nil || !a.Is6() || a.Zone() != "" {
		return "", "", false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return addr, port, err == nil && len(port) > 1
}
