package dnscache

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// Proto is how a DNS server is spoken to.
type Proto string

// The protocols, as the schemes of [ParseServer].
const (
	UDP Proto = "udp"   // RFC 1035, over TCP where an answer is truncated
	TCP Proto = "tcp"   // RFC 7766
	DoT Proto = "tls"   // RFC 7858
	DoH Proto = "https" // RFC 8484
)

// Server is a DNS server.
type Server struct {
	Proto Proto

	// Host is an IP address or, for DoT and DoH, possibly a name.
	Host string
	// Port is never 0: ParseServer gives each protocol its own.
	Port uint16

	// ServerName is what the certificate must be valid for, with DoT and DoH.
	ServerName string

	// URL is where queries are sent to, with DoH.
	URL string
}

// ParseServer parses how a configuration names a DNS server:
//
//   - `192.0.2.1`, `192.0.2.1:53`, `2001:db8::1`, `[2001:db8::1]:53`,
//     `udp://192.0.2.1:53`: over UDP
//   - `tcp://192.0.2.1:53`: over TCP
//   - `tls://192.0.2.1:853#dns.example`: DNS over TLS, where the certificate
//     must be valid for the name behind #, or for the host if there is none
//   - `https://dns.example/dns-query`, `https://192.0.2.1/dns-query#dns.example`:
//     DNS over HTTPS
//
// The port is optional. Where the host is a name, the resolver of the system is
// asked for its addresses each time a connection to it is made.
func ParseServer(s string) (Server, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = string(UDP), s
	}
	switch p := Proto(scheme); p {
	case UDP, TCP:
		return parsePlain(p, rest)
	case DoT:
		return parseTLS(rest)
	case DoH:
		return parseHTTPS(s)
	}
	return Server{}, fmt.Errorf("unknown scheme '%s': one of udp, tcp, tls, https", scheme)
}

// parsePlain parses a server that is found without resolving anything.
func parsePlain(p Proto, s string) (Server, error) {
	host, port, err := splitHostPort(s, 53)
	if err != nil {
		return Server{}, err
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return Server{}, errors.New("not an IP address; a name is possible with tls:// and https:// only")
	}
	return Server{Proto: p, Host: host, Port: port}, nil
}

func parseTLS(s string) (Server, error) {
	s, name, named := strings.Cut(s, "#")
	host, port, err := splitHostPort(s, 853)
	if err != nil {
		return Server{}, err
	}
	if named && name == "" {
		return Server{}, errors.New("the name of the certificate behind '#' is empty")
	}
	if !named {
		name = host
	}
	if !validHost(name) {
		return Server{}, errors.New("the name of the certificate behind '#' is neither a name nor an IP address")
	}
	return Server{Proto: DoT, Host: host, Port: port, ServerName: name}, nil
}

func parseHTTPS(s string) (Server, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Server{}, err
	}
	if u.User != nil {
		return Server{}, errors.New("user information is not supported")
	}
	host, port, err := splitHostPort(u.Host, 443)
	if err != nil {
		return Server{}, err
	}
	if u.Path == "" {
		return Server{}, errors.New("the path is missing; most servers have '/dns-query'")
	}
	name := u.Fragment
	if name == "" {
		name = host
	}
	if !validHost(name) {
		return Server{}, errors.New("the name of the certificate behind '#' is neither a name nor an IP address")
	}
	u.Fragment = ""
	return Server{Proto: DoH, Host: host, Port: port, ServerName: name, URL: u.String()}, nil
}

// splitHostPort takes the port, if there is one, off a host.
func splitHostPort(s string, defaultPort uint16) (string, uint16, error) {
	if a, err := netip.ParseAddr(s); err == nil && validHost(s) {
		return a.String(), defaultPort, nil
	}
	if strings.ContainsAny(s, "/?@ ") || strings.ContainsFunc(s, unicode.IsControl) {
		return "", 0, errors.New("only a host and a port are possible")
	}
	host, port := s, ""
	switch {
	case strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]"):
		host = s[1 : len(s)-1]
	case strings.Contains(s, ":"):
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return "", 0, errors.New("not of the form host:port")
		}
	}
	if host == "" {
		return "", 0, errors.New("the host is missing")
	}
	if !validHost(host) {
		return "", 0, errors.New("the host is neither a name nor an IP address")
	}
	if port == "" {
		return host, defaultPort, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port '%s' is not a number from 1 to 65535", port)
	}
	return host, uint16(n), nil
}

// validHost reports whether s is an IP address or could be a name in a certificate.
func validHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == "" || validName(a.Zone()) // netip takes anything as a zone
	}
	return validName(s)
}

func validName(s string) bool {
	for i := range len(s) {
		letter := 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z'
		if !letter && (s[i] < '0' || s[i] > '9') && !strings.ContainsRune("-._", rune(s[i])) {
			return false
		}
	}
	return s != ""
}

// String is the server as ParseServer takes it.
func (s Server) String() string {
	out := string(s.Proto) + "://" + s.addr()
	if s.Proto == DoH {
		out = s.URL
	}
	if s.ServerName != "" && s.ServerName != s.Host {
		out += "#" + s.ServerName
	}
	return out
}

func (s Server) addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))) }
