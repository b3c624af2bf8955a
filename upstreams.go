package egress

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the configuration of upstream proxies and their groups.

// UpstreamGroup is a named set of upstream proxies with one balancing policy and
// one health policy. The same upstream in two groups is two upstreams: each has
// its own connections, limits and health.
type UpstreamGroup struct {
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
	Circuit *UpstreamCircuit `json:"circuit,omitempty"`

	// SlowStart is the time in which the share of a member that has come back
	// after a failure grows from a tenth to the whole. Default: 30s; -1 for
	// the whole at once.
	SlowStart caddy.Duration `json:"slow_start,omitempty"`

	at          *caddyfile.Dispenser  // where its block stands in a Caddyfile; nil elsewhere
	healthWords []caddyfile.Dispenser // where the words about its checks stand
}

// Upstream is a parent proxy.
type Upstream struct {
	// URL is where it is and what it speaks: `http://host:port`,
	// `https://host:port` (HTTP/2 where it offers that, HTTP/1.1 otherwise),
	// `socks5://host:port` (names are resolved here) or
	// `socks5h://host:port` (the upstream resolves). `user:password@` may
	// stand before the host. A port left out is 80, 443 or 1080. Without a
	// scheme it is that of the group. `http+unix:///run/proxy.sock`, and the
	// same with the other schemes, is a unix socket. Global placeholders such
	// as `{env.PROXY_URL}` are replaced at provision.
	URL string `json:"url" placeholders:"own"`

	// Credentials log in to the upstream: with Proxy-Authorization: Basic
	// (RFC 7617) or with RFC 1929 over SOCKS. An error beside credentials in
	// the URL. Default: those of the group.
	Credentials *Credentials `json:"credentials,omitempty"`

	// Weight is the share of this member among those of its priority, where
	// the selection policy looks at weights. 1 to 10000. Default: 1.
	Weight int `json:"weight,omitempty"`

	// Priority is the tier of this member: as long as one of a lower number
	// is available, those of higher numbers are not used. Default: 0.
	Priority int `json:"priority,omitempty"`

	// MaxConns limits the connections for exchanges through this upstream.
	// Default: no limit.
	MaxConns int `json:"max_conns,omitempty"`

	// MaxPending limits the requests that wait for one of them; above it the
	// member counts as full. Default: 128; -1: nobody waits.
	MaxPending int `json:"max_pending,omitempty"`

	// MaxTunnels limits the tunnels through this upstream. A member that has
	// as many is passed over. Default: no limit.
	MaxTunnels int `json:"max_tunnels,omitempty"`

	// MaxTunnelsPerConn limits the tunnels over one HTTP/2 connection. The
	// upstream's own limit (SETTINGS_MAX_CONCURRENT_STREAMS) is kept as well.
	// Default: 100; 1 where ProxyProtocol is set, since a connection then
	// belongs to one client.
	MaxTunnelsPerConn int `json:"max_tunnels_per_conn,omitempty"`

	// Standby is how many connections are kept dialed ahead, with TLS where
	// that is spoken, while the upstream is up. An error with ProxyProtocol.
	// Default: none.
	Standby int `json:"standby,omitempty"`

	// TLS configures TLS towards an `https` upstream, with the settings of
	// reverse_proxy's transport. Default: that of the group.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// ProxyProtocol tells the upstream the client's address in a header of
	// the PROXY protocol before anything else: `v1` or `v2`. Default: none.
	ProxyProtocol string `json:"proxy_protocol,omitempty"`

	// LocalAddresses are IP addresses of this machine that the upstream is dialed
	// from, instead of those of the transport and with the same meaning; a unix
	// socket has none. Default: those of the transport.
	LocalAddresses []string `json:"local_addresses,omitempty"`

	// LocalAddressPick is how one of several is chosen: `round_robin` or
	// `user_hash`, as in the transport. Default: `round_robin`.
	LocalAddressPick string `json:"local_address_pick,omitempty"`

	// Interface is the network interface that the upstream is dialed by, instead
	// of that of the transport. Without LocalAddresses the system chooses the
	// address then. A unix socket has none. Linux only; an error elsewhere.
	// Default: that of the transport.
	Interface string `json:"interface,omitempty"`

	// PreferIP says which of its own addresses the upstream is dialed at: `4`,
	// `6`, `4_only` or `6_only`, as in the transport. What an upstream is told of
	// destinations does not depend on it. Default: that of the transport.
	PreferIP string `json:"prefer_ip,omitempty"`

	// Header are fields added to what is sent to an HTTP upstream: to CONNECT
	// requests and to the heads of exchanges, there instead of the client's
	// fields of the same names. An error with SOCKS. Default: none.
	Header http.Header `json:"header,omitempty"`

	at *caddyfile.Dispenser // where it stands in a Caddyfile; nil elsewhere
}

// Credentials are a user and a password. Global placeholders in them are
// replaced at provision; nothing left after that is an error.
type Credentials struct {
	// Username, without a colon.
	Username string `json:"username" placeholders:"own"`
	// Password may be anything.
	Password string `json:"password" placeholders:"own"`
}

// resolve replaces the placeholders.
func (c *Credentials) resolve(repl *caddy.Replacer) (*Credentials, error) {
	out := &Credentials{repl.ReplaceKnown(c.Username, ""), repl.ReplaceKnown(c.Password, "")}
	if out.Username == "" && c.Username != "" {
		return nil, fmt.Errorf("the user name is %w", settings.Emptied(c.Username))
	}
	if err := out.check(); err != nil {
		return nil, err
	}
	if out.Password == "" && c.Password != "" {
		return nil, fmt.Errorf("the password is %w", settings.Emptied(c.Password))
	}
	return out, nil
}

func (c *Credentials) check() error {
	switch {
	case c.Username == "":
		return errors.New("the user name is empty")
	case strings.Contains(c.Username, ":"):
		return errors.New("a user name cannot contain ':'")
	case plaintext.HasControl(c.Username), plaintext.HasControl(c.Password):
		return errors.New("user name or password contain control characters")
	case len(c.Username) > 255, len(c.Password) > 255:
		return errors.New("user name or password are longer than 255 bytes")
	}
	return nil
}

// settable reports whether the operator may set a field of requests: not what
// frames messages, and not what this handler writes itself.
func settable(name string) bool {
	name = http.CanonicalHeaderKey(name)
	switch name {
	case "Content-Length", "Host", "Proxy-Authorization", "Expect", "Max-Forwards", "Trailer", exchange.EarlyData:
		return false
	}
	return !exchange.HopByHop(name)
}

func (g *UpstreamGroup) add(u *Upstream) { g.Upstreams = append(g.Upstreams, u) }

func checkGroupName(name string) error {
	switch {
	case name == core.ExitDirect || name == core.ExitDeny:
		return fmt.Errorf("'%s' cannot be the name of a group: it means something else in routes", name)
	case name == "" || plaintext.HasControl(name):
		return errors.New("a group needs a name")
	}
	return nil
}

// validate checks what concerns the group as a whole.
func (g *UpstreamGroup) validate() error {
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
