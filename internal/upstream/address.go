package upstream

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	pathpkg "path"
	"strconv"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains how the address of an upstream proxy is written: as a URL,
// or as a line of a list.

// Schemes of upstream proxies.
const (
	HTTP    = "http"
	HTTPS   = "https"
	SOCKS5  = "socks5"  // we resolve the name
	SOCKS5H = "socks5h" // the upstream resolves it
)

// Schemes are those of upstream proxies.
var Schemes = []string{HTTP, HTTPS, SOCKS5, SOCKS5H}

// defaultPorts are the ports of upstreams whose URL has none: those of the
// schemes, and that of RFC 1928.
var defaultPorts = map[string]uint16{
	HTTP: 80, HTTPS: 443, SOCKS5: 1080, SOCKS5H: 1080,
}

// unixSuffix behind a scheme says that the rest is the path of a socket.
const unixSuffix = "+unix"

// Address is where an upstream proxy is and what it speaks.
type Address struct {
	Scheme string // one of Schemes
	Host   string // canonical; empty for a unix socket
	Port   uint16
	Socket string // path of a unix socket
	User   *url.Userinfo
}

// String is the address without credentials, as logs, labels and placeholders show it: a URL,
// in which all that is special, such as # or what is no text, is escaped.
func (a Address) String() string {
	if a.Socket != "" {
		return a.Scheme + unixSuffix + "://" + (&url.URL{Path: a.Socket}).EscapedPath()
	}
	return a.Scheme + "://" + net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// dialed is where it is in Caddy's notation, as reverse_proxy tells it: host:port, or unix/
// and a path.
func (a Address) dialed() string {
	if a.Socket != "" {
		return "unix/" + a.Socket
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// ParseURL reads scheme://[user[:password]@]host[:port], or
// scheme+unix://[user[:password]@]/path. Without a scheme it is the given one,
// and then the port is mandatory. Errors never quote the input, which may hold
// credentials.
func ParseURL(s, defaultScheme string) (Address, error) {
	if s == "" {
		return Address{}, errors.New("is empty")
	}
	bare := !strings.Contains(s, "://")
	if bare {
		if defaultScheme == "" {
			defaultScheme = HTTP
		}
		s = defaultScheme + "://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		if hint := inBrackets(s); hint != "" {
			return Address{}, fmt.Errorf("an IPv6 address needs brackets: %s", hint)
		}
		return Address{}, errors.New("not a URL of the form scheme://user:password@host:port (special characters in the password must be percent-encoded)")
	}
	a := Address{Scheme: u.Scheme, User: u.User}
	scheme, isUnix := strings.CutSuffix(u.Scheme, unixSuffix)
	if defaultPorts[scheme] == 0 {
		return Address{}, fmt.Errorf("unknown scheme '%s': one of %s (or one of these with %s behind it)",
			plaintext.Escaped(u.Scheme), strings.Join(Schemes, ", "), unixSuffix)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return Address{}, errors.New("has a query or a fragment")
	}
	if isUnix {
		a.Scheme = scheme
		return a.onSocket(u)
	}
	if u.Path != "" && u.Path != "/" {
		return Address{}, errors.New("has a path; an upstream is scheme://host:port")
	}
	if u.Port() == "" && bare {
		return Address{}, errors.New("has no port; write host:port, or scheme://host for the port of the scheme")
	}
	t, err := target.ParseHostPort(u.Host, defaultPorts[scheme])
	if err != nil {
		return Address{}, err
	}
	a.Host, a.Port = t.Host, t.Port
	return a, nil
}

func (a Address) onSocket(u *url.URL) (Address, error) {
	if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		return Address{}, fmt.Errorf("the path of a unix socket must be absolute: %s%s:///run/proxy.sock", a.Scheme, unixSuffix)
	}
	a.Socket = pathpkg.Clean(u.Path)
	return a, nil
}

// inBrackets is a URL with an IPv6 address as it should be, without credentials; empty
// where it has none.
func inBrackets(s string) string {
	scheme, rest, _ := strings.Cut(s, "://")
	host := strings.TrimSuffix(rest[strings.LastIndexByte(rest, '@')+1:], "/")
	if addr, port, ok := target.PortBehindIPv6(host); ok {
		return scheme + "://[" + addr + "]:" + port
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return scheme + "://[" + host + "]"
	}
	return ""
}

// WithoutCredentials is the URL or address of an upstream as it is told to people, and
// whether there were any credentials in it.
func WithoutCredentials(text string) (bare string, had bool) {
	bare, _, had = CutCredentials(text)
	return bare, had
}

// CutCredentials is WithoutCredentials, and the user of these credentials.
func CutCredentials(text string) (bare, user string, had bool) {
	scheme, rest, isURL := strings.Cut(text, "://")
	if !isURL {
		scheme, rest = "", text
	}
	authority := rest
	switch {
	case strings.HasSuffix(scheme, unixSuffix): // a path may have an @
		authority, _, _ = strings.Cut(rest, "/")
	case !isURL && strings.HasPrefix(text, "unix/"):
		authority = ""
	}
	at := strings.LastIndexByte(authority, '@')
	if at >= 0 {
		user, _, _ = strings.Cut(authority[:at], ":")
		if plain, err := url.PathUnescape(user); err == nil {
			user = plain
		}
	}
	rest = rest[at+1:]
	if !strings.HasSuffix(scheme, unixSuffix) {
		rest = strings.TrimSuffix(rest, "/")
	}
	if isURL {
		rest = scheme + "://" + rest
	}
	return rest, user, at >= 0
}

// ParseLine reads a line of a list of upstreams: a URL, or
// host:port[:user:password], the form in which lists of proxies are sold. An IPv6
// address needs brackets. The password is what is left of the line, colons
// included, and nothing in it is decoded.
func ParseLine(line, defaultScheme string) (Address, error) {
	if strings.Contains(line, "://") {
		return ParseURL(line, defaultScheme)
	}
	host, rest := line, ""
	if end := strings.IndexByte(line, ']'); strings.HasPrefix(line, "[") && end > 0 {
		host, rest = line[:end+1], line[end+1:]
	} else if colon := strings.IndexByte(line, ':'); colon > 0 {
		host, rest = line[:colon], line[colon:]
	}
	parts := strings.SplitN(strings.TrimPrefix(rest, ":"), ":", 3)
	if rest == "" || len(parts) == 2 {
		return Address{}, errors.New("not a URL and not of the form host:port or host:port:user:password")
	}
	a, err := ParseURL(host+":"+parts[0], defaultScheme)
	if err == nil && len(parts) == 3 {
		a.User = url.UserPassword(parts[1], parts[2])
	}
	return a, err
}
