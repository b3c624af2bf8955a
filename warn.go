package egress

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/caddyserver"
)

// warnAboutServer warns about the mistakes that can be seen from the server that the
// handler is being set up for.
func (h *Handler) warnAboutServer(server *caddyhttp.Server) {
	if h.first && caddyserver.HidesEgress(server) {
		h.logger.Warn("an egress is never reached: another one before it in the same site takes all requests; put their settings into one, or give the first a matcher",
			zap.Strings("listen", server.Listen))
	}
	if hosts := caddyserver.OnlyHosts(server); len(hosts) > 0 {
		h.logger.Warn("this proxy is reached only under the host names of its site: Caddy answers CONNECT for any other host with an empty 200; "+
			"write the site address as a catch-all, for example ':443, proxy.example.com'",
			zap.Strings("hosts", hosts))
	}
	if !h.Auth.enabled() && !h.AllowUnauthenticated && !caddyserver.OnlyLoopback(server) {
		h.logger.Warn("open proxy: anybody who reaches this listener can use it; "+
			"configure basic_auth, bind to a loopback address, or write allow_unauthenticated to silence this",
			zap.Strings("listen", server.Listen))
	}
}

// lowRate is the rate, in bytes per second, below which a unit was probably forgotten.
const lowRate = 1 << 10

func (h *Handler) warnAboutRates() {
	for name, rate := range map[string]int64{"rate_per_tunnel": h.tunnel.RatePerTunnel, "rate_per_user": h.tunnel.RatePerUser} {
		if 0 < rate && rate < lowRate {
			h.logger.Warn(name+" is below 1 KiB per second: it counts bytes; write 10MB for ten megabytes per second",
				zap.Int64("bytes_per_second", rate))
		}
	}
}

// maxRuleWarnings bounds the rules that are warned about: what is wrong with a long list
// is seen from the first.
const maxRuleWarnings = 10

func (h *Handler) warnAboutRules() {
	unreached := acl.FindUnreached(h.rules())
	for i, u := range unreached {
		if i == maxRuleWarnings {
			h.logger.Warn("further access rules are never reached", zap.Int("rules", len(unreached)-i))
			return
		}
		h.logger.Warn("access rule is never reached: the first that matches decides; write it before the other one",
			zap.String("rule", u.Rule), zap.String("decided_by", u.DecidedBy))
	}
}
