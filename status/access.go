package status

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains who may see the page.

// anybody stands for every user that a handler before this one has authenticated.
const anybody = "*"

// parseNetwork reads an address or a network. IPv4 within IPv6 is IPv4, as clients are.
func parseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("allow: '%s' is not an IP address or a network such as 10.0.0.0/8", plaintext.Escaped(s))
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	p, ok := target.Unmapped(p)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("allow: '%s' is more than IPv4; write IPv4 networks as 10.0.0.0/8", plaintext.Escaped(s))
	}
	return p.Masked(), nil
}

// mayLook reports whether a client may see the page.
func (s *Status) mayLook(r *http.Request) bool {
	client := clientOf(r)
	for _, n := range s.networks {
		if n.Contains(client) {
			return true
		}
	}
	if len(s.AllowUsers) > 0 {
		if user := userOf(r); user != "" && (slices.Contains(s.AllowUsers, user) || slices.Contains(s.AllowUsers, anybody)) {
			return true
		}
	}
	return isLocal(r, client)
}

// isLocal reports whether a request was made on this machine on purpose: not by a proxy that
// runs here, whether it is trusted or not, nor by a page in a browser whose name was made to
// mean this machine. What a proxy says of its clients is never enough: much of it is what
// they say themselves.
func isLocal(r *http.Request, client netip.Addr) bool {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	peer := remote.Addr().Unmap().WithZone("")
	if !peer.IsLoopback() || client != peer || passedOn(r) {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// forwarding are the fields, beside X-Forwarded-For and its like, by which proxies tell that
// they have passed a request on, and for whom.
var forwarding = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "X-Originating-Ip", "X-Remote-Ip",
	"True-Client-Ip", "Client-Ip", "Cf-Connecting-Ip", "Fastly-Client-Ip",
}

// passedOn reports whether a proxy has passed a request on: whether a field says so, even an
// empty one, which a client may have sent to hide that of the proxy.
func passedOn(r *http.Request) bool {
	for field := range r.Header {
		if strings.HasPrefix(http.CanonicalHeaderKey(field), "X-Forwarded") {
			return true
		}
	}
	fields := forwarding
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		fields = slices.Concat(fields, server.ClientIPHeaders) // Caddy takes the client from these
	}
	return slices.ContainsFunc(fields, func(field string) bool { return len(r.Header.Values(field)) > 0 })
}

// clientOf is the client as Caddy's {client_ip} has it; the zero value if that is unknown.
func clientOf(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}

// userOf is who a handler before this one says it is.
func userOf(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	user, _ := repl.GetString("http.auth.user.id")
	return user
}
