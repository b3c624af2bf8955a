package target

import (
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Length limits of a name in bytes, without trailing dot (RFC 1035, Section
// 2.3.4; 255 bytes on the wire are 253 as text).
const (
	maxName  = 253
	maxLabel = 63
)

// profile is the UTS #46 processing that browsers do: map, then encode. It is
// idna.Lookup without the rules about hyphens and STD 3 characters, which names
// in use break ("r3---sn-abc", "_dmarc"). Characters are checked afterwards.
var profile = idna.New(
	idna.MapForLookup(),
	idna.BidiRule(),
	idna.Transitional(false),
	idna.CheckHyphens(false),
	idna.StrictDomainName(false),
)

// ParseHost parses a host alone, of a request or of a configuration: a name, an
// IPv4 address in any spelling, or an IPv6 address with or without brackets.
// It returns the canonical text (see [Target]) and, when the host is an
// address, that address. Errors are of type *Error.
//
// It does not allocate for what is canonical already.
func ParseHost(s string) (host string, addr netip.Addr, err error) {
	if err := checkBytes(s); err != nil {
		return "", netip.Addr{}, err
	}
	if strings.HasPrefix(s, "[") {
		if !strings.HasSuffix(s, "]") {
			return "", netip.Addr{}, errorf("']' is missing at the end")
		}
		return parseIPv6(s[1 : len(s)-1])
	}
	if strings.IndexByte(s, ':') >= 0 {
		if host, addr, err = parseIPv6(s); err != nil {
			return "", netip.Addr{}, errorf("it has a colon but is not an IPv6 address (a port has no place here)")
		}
		return host, addr, nil
	}
	return parseName(s)
}

// parseIPv6 parses the text between brackets. checkBytes has refused zones.
func parseIPv6(s string) (string, netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is6() {
		return "", netip.Addr{}, errorf("not a valid IPv6 address")
	}
	a = a.Unmap()
	return canonicalText(a, s), a, nil
}

// canonicalText returns the text of a, which is s itself when s is canonical.
func canonicalText(a netip.Addr, s string) string {
	var buf [len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]byte
	if text := a.AppendTo(buf[:0]); string(text) != s {
		return string(text)
	}
	return s
}

// parseName parses what is not written as IPv6: a name or an IPv4 address.
func parseName(s string) (string, netip.Addr, error) {
	name, err := toASCII(s)
	if err != nil {
		return "", netip.Addr{}, err
	}
	// One trailing dot says that a name is absolute. It is the same name.
	name = strings.TrimSuffix(name, ".")
	if name == "" {
		return "", netip.Addr{}, errorf("the host is empty")
	}
	if endsInNumber(name) {
		a, ok := parseIPv4(name)
		if !ok {
			return "", netip.Addr{}, errorf("it ends in a number but is not an IPv4 address")
		}
		return canonicalText(a, name), a, nil
	}
	if err := checkLabels(name); err != nil {
		return "", netip.Addr{}, err
	}
	return name, netip.Addr{}, nil
}

// toASCII returns s in lower case and ASCII, made of letters, digits, hyphens,
// underscores and dots only.
func toASCII(s string) (string, error) {
	name := lowerASCII(s)
	if !isASCII(name) || hasACELabel(name) {
		if !utf8.ValidString(name) {
			return "", errorf("the host is not valid UTF-8")
		}
		var err error
		if name, err = mapIDN(name); err != nil {
			return "", err
		}
	}
	for i := range len(name) {
		if c := name[i]; !isNameByte(c) {
			if c <= ' ' || c >= 0x7f {
				return "", errorf("the host has a character that no host name has")
			}
			return "", errorf("the host has the character '%c'", c)
		}
	}
	return name, nil
}

// mapIDN maps and encodes an internationalized name. It also checks labels that
// came encoded: one that decodes to something its own encoding is not (upper
// case, plain ASCII, a full-width digit) would be a second spelling of a name.
func mapIDN(name string) (string, error) {
	mapped, err := profile.ToASCII(name)
	if err != nil {
		return "", errorf("not a valid internationalized host name")
	}
	again, err := profile.ToASCII(mapped)
	if err != nil || again != mapped {
		return "", errorf("not a valid internationalized host name")
	}
	if strings.HasSuffix(mapped, ".") && !endsInDot(name) {
		// "xn--" decodes to nothing: "host.xn--" would be "host".
		return "", errorf("not a valid internationalized host name")
	}
	return mapped, nil
}

// endsInDot tells whether the last character is one that UTS #46 maps to a dot.
func endsInDot(s string) bool {
	last, _ := utf8.DecodeLastRuneInString(s)
	return strings.ContainsRune(".\u3002\uff0e\uff61", last)
}

// lowerASCII lowers ASCII letters only: the others are for IDNA to map, which
// strings.ToLower would do differently (U+212A KELVIN SIGN, U+0130).
func lowerASCII(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i] >= 'A' && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// hasACELabel tells whether a label of a lower-case name is Punycode.
func hasACELabel(s string) bool {
	return strings.HasPrefix(s, "xn--") || strings.Contains(s, ".xn--")
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

func checkLabels(name string) error {
	if len(name) > maxName {
		return errorf("the host is longer than %d bytes", maxName)
	}
	for more := true; more; {
		var label string
		label, name, more = strings.Cut(name, ".")
		if label == "" {
			return errorf("the host has an empty label")
		}
		if len(label) > maxLabel {
			return errorf("the host has a label longer than %d bytes", maxLabel)
		}
	}
	return nil
}
