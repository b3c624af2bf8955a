package upstreams

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// Group is a named set of upstream proxies with one balancing policy and
// one health policy. The same upstream in two groups is two upstreams: each has
// its own connections, limits and health.
type Group struct {
	// Upstreams are the members that are always there. Default: none; then
	// File or Dynamic must say where members come from.
	Upstreams []*Upstream `json:"upstreams,omitempty"`

	// File is the path of a list of members, one a line: a URL, or
	// `host:port`, or `host:port:user:password`. Empty lines are skipped,
	// and so is a comment: what begins with a `#` at the beginning of a line or
	// behind a space or tab. It must be a regular file; a relative path begins
	// at the working directory of Caddy. It is watched: members
	// that stay keep their connections and health, new ones join, those that
	// are gone drain. A list with a bad line is refused as a whole, at
	// provision with an error, later with a line in the log, and the old
	// members stay. Default: none.
	File string `json:"file,omitempty"`

	// DynamicRaw is a source of members, one of reverse_proxy's modules
	// (`a`, `srv`, `multi`, …). It is asked off-request, so placeholders of
	// requests are empty in it. Sources tell no scheme: Scheme is mandatory
	// beside it. While it fails, and after a reload until it answers, the
	// members that it told last stay; each part of a `multi` is a source of its
	// own in that. Members are sorted, by priority, weight and address.
	//
	// `a` and `srv` are looked up by this module, apart from the cache of
	// reverse_proxy: as often as `refresh` says, of which less than 1s is an
	// error. The priorities and weights of SRV records are those of the members.
	// `grace_period` is without effect, and `dial_network` an error. Default:
	// none.
	DynamicRaw json.RawMessage `json:"dynamic,omitempty" caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`

	// Scheme is that of members whose address has none: `http`, `https`,
	// `socks5` or `socks5h`. Default: `http`.
	Scheme string `json:"scheme,omitempty"`

	// Credentials are those of members that have none of their own. Default:
	// none.
	Credentials *Credentials `json:"credentials,omitempty"`

	// TLS is that of `https` members that have none of their own. Default: the
	// roots of the system.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// LoadBalancing says which member a request takes, and what happens when
	// that one fails. Default: as the defaults of its fields say.
	LoadBalancing *LoadBalancing `json:"load_balancing,omitempty"`

	// HealthChecks are the active checks of the members. Default: none.
	HealthChecks *HealthChecks `json:"health_checks,omitempty"`

	// Circuit is the passive health of the members. Default: on, with the
	// defaults of its fields.
	Circuit *Circuit `json:"circuit,omitempty"`

	// SlowStart is the time in which the share of a member that has come back
	// after a failure grows from a tenth to the whole. Default: 30s; -1 for
	// the whole at once.
	SlowStart caddy.Duration `json:"slow_start,omitempty"`

	at          *caddyfile.Dispenser  // where its block stands in a Caddyfile; nil elsewhere
	healthWords []caddyfile.Dispenser // where the words about its checks stand
}

// Add adds an upstream, whose words stand at the given place of a Caddyfile.
func (g *Group) Add(url string, at *caddyfile.Dispenser) {
	g.Upstreams = append(g.Upstreams, &Upstream{URL: url, at: at})
}

// Validate checks what concerns the group as a whole.
func (g *Group) Validate() error {
	switch {
	case g.Scheme != "" && !slices.Contains(upstream.Schemes, g.Scheme):
		return fmt.Errorf("scheme: unknown scheme '%s': one of %s", plaintext.Escaped(g.Scheme), strings.Join(upstream.Schemes, ", "))
	case len(g.DynamicRaw) > 0 && g.Scheme == "":
		return errors.New("dynamic: a source tells host and port only; scheme must say what its members speak")
	case len(g.Upstreams) == 0 && g.File == "" && len(g.DynamicRaw) == 0:
		return errors.New("has no upstreams")
	case g.SlowStart < 0 && g.SlowStart != words.NoLimit:
		return fmt.Errorf("slow_start: %s is not positive (-1 is off)", time.Duration(g.SlowStart))
	}
	return nil
}
