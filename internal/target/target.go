package target

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// MaxAuthority is the longest authority or host, in bytes, that is looked at. A
// name of 253 ASCII bytes takes at most four times that many in UTF-8; the rest
// is room for a port. Punycode work grows with the square of the length, so the
// limit comes before it.
const MaxAuthority = 1100

// Target is a destination in canonical form. Two targets mean the same
// destination exactly when they are equal. The zero value is no destination.
type Target struct {
	// Host is the lower-case ASCII name without trailing dot, or the canonical
	// text of Addr without brackets.
	Host string

	// Addr is valid when Host is an address literal. It is never an
	// IPv4-mapped IPv6 address (those become IPv4) and never has a zone.
	Addr netip.Addr

	// Port is between 1 and 65535.
	Port uint16
}

// String returns the target as "host:port", with brackets around IPv6.
// ParseAuthority of it gives the same target.
func (t Target) String() string {
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

// IsAddr tells whether the request named an address instead of a name.
func (t Target) IsAddr() bool { return t.Addr.IsValid() }

// Error says why a text names no destination. All functions of this package
// that fail return one.
type Error struct {
	// Reason is a readable phrase. It holds no bytes of the input but
	// printable ASCII ones, so that it may be logged and sent.
	Reason string
}

// Error returns the reason with a prefix that says what was parsed.
func (e *Error) Error() string { return "invalid destination: " + e.Reason }

// ReasonOf takes the words about destinations of requests off an error.
func ReasonOf(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return errors.New(e.Reason)
	}
	return err
}

func errorf(format string, args ...any) error {
	return &Error{Reason: fmt.Sprintf(format, args...)}
}

// ParseAuthority parses the authority-form of a CONNECT request: a host, a
// colon and a port. The port is mandatory (RFC 9110, Section 9.3.6 and RFC
// 9112, Section 3.2.3); leading zeros in it are dropped. An IPv6 address needs
// its brackets. Errors are of type *Error and mean a 400.
func ParseAuthority(s string) (Target, error) {
	return ParseHostPort(s, 0)
}

// ParseHostPort parses the authority of an absolute-form URI. A port that is
// absent or empty ("http://h:/", RFC 3986, Section 3.2.3) is defaultPort; with
// a defaultPort of 0 the port is mandatory. User information is refused, as
// are a path, a query and a fragment. Errors are of type *Error and mean a 400.
func ParseHostPort(s string, defaultPort uint16) (Target, error) {
	if err := checkBytes(s); err != nil {
		return Target{}, err
	}
	host, port, err := split(s)
	if err != nil {
		return Target{}, err
	}

	var t Target
	if strings.HasPrefix(host, "[") {
		t.Host, t.Addr, err = parseIPv6(host[1 : len(host)-1])
	} else {
		t.Host, t.Addr, err = parseName(host)
	}
	if err != nil {
		return Target{}, err
	}
	if t.Port, err = parsePort(port, defaultPort); err != nil {
		return Target{}, err
	}
	return t, nil
}

// split cuts an authority into host and port. A bracketed host keeps its
// brackets: they decide how it is read. An absent port is empty.
func split(s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", errorf("']' is missing")
		}
		host, port = s[:end+1], s[end+1:]
		if port == "" {
			return host, "", nil
		}
		if port[0] != ':' {
			return "", "", errorf("only a port may follow ']'")
		}
		return host, port[1:], nil
	}
	host, port, _ = strings.Cut(s, ":")
	if strings.IndexByte(port, ':') >= 0 {
		// "::1:80" is the address ::1:80 as well as port 80 of ::1.
		return "", "", errorf("more than one colon (an IPv6 address needs brackets)")
	}
	return host, port, nil
}

func parsePort(s string, defaultPort uint16) (uint16, error) {
	if s == "" {
		if defaultPort == 0 {
			return 0, errorf("the port is missing")
		}
		return defaultPort, nil
	}
	n := 0
	for i := range len(s) {
		c := s[i]
		if c < '0' || c > '9' {
			return 0, errorf("the port is not a number")
		}
		// Saturate instead of overflowing: "65616" must not become 80.
		n = min(n*10+int(c-'0'), 1<<16)
	}
	switch {
	case n == 0:
		return 0, errorf("port 0 cannot be connected to")
	case n > 65535:
		return 0, errorf("the port is above 65535")
	}
	return uint16(n), nil
}

// checkBytes refuses what no authority has, before anything else looks at it.
// Characters beyond ASCII that map to one of these are refused after mapping.
func checkBytes(s string) error {
	if len(s) > MaxAuthority {
		return errorf("longer than %d bytes", MaxAuthority)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			return errorf("it has a space")
		case c < ' ' || c == 0x7f:
			return errorf("it has the control byte 0x%02x", c)
		case c == '@':
			return errorf("it has user information ('@')")
		case c == '/' || c == '?' || c == '#':
			return errorf("it has a path, query or fragment ('%c')", c)
		case c == '\\':
			return errorf("it has a backslash")
		case c == '%':
			// Go's URL parsing has decoded what may be decoded. A zone
			// identifier means something on one machine only.
			return errorf("it has a percent sign (percent-encoding and zone identifiers are not accepted)")
		}
	}
	return nil
}
