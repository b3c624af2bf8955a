package egress

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// warnAboutServer warns about the two mistakes that can be seen from the server
// that the handler is being set up for.
func (h *Handler) warnAboutServer(server *caddyhttp.Server) {
	if hosts := onlyHosts(server); len(hosts) > 0 {
		h.logger.Warn("this proxy is reached only under the host names of its site: Caddy answers CONNECT for any other host with an empty 200; "+
			"write the site address as a catch-all, for example ':443, proxy.example.com'",
			zap.Strings("hosts", hosts))
	}
	if !h.Auth.enabled() && !h.AllowUnauthenticated && !onlyLoopback(server) {
		h.logger.Warn("open proxy: anybody who reaches this listener can use it; "+
			"configure basic_auth, bind to a loopback address, or write allow_unauthenticated to silence this",
			zap.Strings("listen", server.Listen))
	}
}

// onlyHosts returns the host names behind which alone the handler that is being
// provisioned can be reached, or nil if it can be reached under any name. While
// a route's handlers are provisioned their JSON still stands in the route, and
// its matchers are there already; that is how our route is told from the rest.
func onlyHosts(server *caddyhttp.Server) []string {
	for _, route := range server.Routes {
		if !slices.ContainsFunc(route.HandlersRaw, mentionsEgress) {
			continue
		}
		var hosts []string
		for _, set := range route.MatcherSets {
			h := hostMatcher(set)
			if h == nil {
				return nil
			}
			hosts = append(hosts, h...)
		}
		return hosts
	}
	return nil
}

func mentionsEgress(raw json.RawMessage) bool {
	return bytes.Contains(raw, []byte(`"handler":"egress"`)) || bytes.Contains(raw, []byte(`"handler": "egress"`))
}

// hostMatcher returns the host names of a matcher set that needs one of them.
func hostMatcher(set caddyhttp.MatcherSet) []string {
	for _, m := range set {
		switch host := m.(type) {
		case caddyhttp.MatchHost:
			return host
		case *caddyhttp.MatchHost:
			return *host
		}
	}
	return nil
}

// onlyLoopback reports whether every listener of the server is bound to a
// loopback address or a Unix socket.
func onlyLoopback(server *caddyhttp.Server) bool {
	return !slices.ContainsFunc(server.Listen, func(addr string) bool {
		na, err := caddy.ParseNetworkAddress(addr)
		if err != nil || na.IsUnixNetwork() {
			return false
		}
		ip, err := netip.ParseAddr(na.Host)
		return na.Host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}
