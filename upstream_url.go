package egress

import (
	"errors"
	"fmt"
	"net"
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
	schemeHTTP    = "http"
	schemeHTTPS   = "https"
	schemeSOCKS5  = "socks5"  // we resolve the name
	schemeSOCKS5H = "socks5h" // the upstream resolves it
)

var upstreamSchemes = []string{schemeHTTP, schemeHTTPS, schemeSOCKS5, schemeSOCKS5H}

// defaultPorts are the ports of upstreams whose URL has none: those of the
// schemes, and that of RFC 1928.
var defaultPorts = map[string]uint16{
	schemeHTTP: 80, schemeHTTPS: 443, schemeSOCKS5: 1080, schemeSOCKS5H: 1080,
}

// unixSuffix behind a scheme says that the rest is the path of a socket.
const unixSuffix = "+unix"

// upstreamAddress is where an upstream proxy is and what it speaks.
type upstreamAddress struct {
	scheme string
	host   string // canonical; empty for a unix socket
	port   uint16
	socket string // path of a unix socket
	user   *url.Userinfo
}

// String is the address without credentials, as logs and placeholders show it.
func (a upstreamAddress) String() string {
	if a.socket != "" {
		return a.scheme + unixSuffix + "://" + a.socket
	}
	return a.scheme + "://" + net.JoinHostPort(a.host, strconv.Itoa(int(a.port)))
}

// parseUpstreamURL reads scheme://[user[:password]@]host[:port], or
// scheme+unix://[user[:password]@]/path. Without a scheme it is the given one,
// and then the port is mandatory. Errors never quote the input, which may hold
// credentials.
func parseUpstreamURL(s, defaultScheme string) (upstreamAddress, error) {
	if s == "" {
		return upstreamAddress{}, errors.New("is empty")
	}
	bare := !strings.Contains(s, "://")
	if bare {
		if defaultScheme == "" {
			defaultScheme = schemeHTTP
		}
		s = defaultScheme + "://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return upstreamAddress{}, errors.New("not a URL of the form scheme://user:password@host:port (special characters in the password must be percent-encoded)")
	}
	a := upstreamAddress{scheme: u.Scheme, user: u.User}
	scheme, isUnix := strings.CutSuffix(u.Scheme, unixSuffix)
	if defaultPorts[scheme] == 0 {
		return upstreamAddress{}, fmt.Errorf("unknown scheme '%s': one of %s (or one of these with %s behind it)",
			plaintext.Escaped(u.Scheme), strings.Join(upstreamSchemes, ", "), unixSuffix)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return upstreamAddress{}, errors.New("has a query or a fragment")
	}
	if isUnix {
		a.scheme = scheme
		return a.onSocket(u)
	}
	if u.Path != "" && u.Path != "/" {
		return upstreamAddress{}, errors.New("has a path; an upstream is scheme://host:port")
	}
	if u.Port() == "" && bare {
		return upstreamAddress{}, errors.New("has no port; write host:port, or scheme://host for the port of the scheme")
	}
	t, err := target.ParseHostPort(u.Host, defaultPorts[scheme])
	if err != nil {
		return upstreamAddress{}, err
	}
	a.host, a.port = t.Host, t.Port
	return a, nil
}

func (a upstreamAddress) onSocket(u *url.URL) (upstreamAddress, error) {
	if u.Host != "" || !strings.HasPrefix(u.Path, "/") {
		return upstreamAddress{}, fmt.Errorf("the path of a unix socket must be absolute: %s%s:///run/proxy.sock", a.scheme, unixSuffix)
	}
	a.socket = pathpkg.Clean(u.Path)
	return a, nil
}

// parseUpstreamLine reads a line of a list of upstreams: a URL, or
// host:port[:user:password], the form in which lists of proxies are sold. An IPv6
// address needs brackets. The password is what is left of the line, colons
// included, and nothing in it is decoded.
func parseUpstreamLine(line, defaultScheme string) (upstreamAddress, error) {
	if strings.Contains(line, "://") {
		return parseUpstreamURL(line, defaultScheme)
	}
	host, rest := line, ""
	if end := strings.IndexByte(line, ']'); strings.HasPrefix(line, "[") && end > 0 {
		host, rest = line[:end+1], line[end+1:]
	} else if colon := strings.IndexByte(line, ':'); colon > 0 {
		host, rest = line[:colon], line[colon:]
	}
	parts := strings.SplitN(strings.TrimPrefix(rest, ":"), ":", 3)
	if rest == "" || len(parts) == 2 {
		return upstreamAddress{}, errors.New("not a URL and not of the form host:port or host:port:user:password")
	}
	a, err := parseUpstreamURL(host+":"+parts[0], defaultScheme)
	if err == nil && len(parts) == 3 {
		a.user = url.UserPassword(parts[1], parts[2])
	}
	return a, err
}
