package target

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// endsInNumber tells whether a name is to be read as an IPv4 address or not at
// all: its last label is decimal, or hexadecimal with "0x" (WHATWG URL, "ends
// in a number checker"). Resolvers take such names as addresses without asking
// DNS, and no top-level domain looks like that.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if digits, ok := strings.CutPrefix(last, "0x"); ok {
		return allDigits(digits, 16)
	}
	return last != "" && allDigits(last, 10)
}

// parseIPv4 reads the spellings that inet_aton and the WHATWG URL parser take:
// one to four numbers, each decimal, octal (0…) or hexadecimal (0x…), of which
// the last fills all bytes that remain.
func parseIPv4(name string) (netip.Addr, bool) {
	var sum uint64
	for i, more := 0, true; more; i++ {
		if i == 4 {
			return netip.Addr{}, false
		}
		var part string
		part, name, more = strings.Cut(name, ".")
		n, ok := parseNumber(part)
		if !ok {
			return netip.Addr{}, false
		}
		if more {
			if n > 255 {
				return netip.Addr{}, false
			}
			sum |= n << (24 - 8*i)
			continue
		}
		if n >= 1<<(32-8*i) {
			return netip.Addr{}, false
		}
		sum |= n
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(sum))
	return netip.AddrFrom4(b), true
}

// parseNumber reads one part of an IPv4 address. "0x" alone is 0, as browsers
// have it. Values that do not fit are cut off at 1<<32, which fits nowhere.
func parseNumber(s string) (uint64, bool) {
	base := uint64(10)
	switch {
	case s == "":
		return 0, false
	case strings.HasPrefix(s, "0x"):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	if !allDigits(s, base) {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		n = min(n*base+digit(s[i]), 1<<32)
	}
	return n, true
}

func allDigits(s string, base uint64) bool {
	for i := range len(s) {
		if digit(s[i]) >= base {
			return false
		}
	}
	return true
}

// digit returns the value of a lower-case digit, or a number beyond every base.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10
	}
	return 1 << 8
}
