package egress

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/words"
)

// Transport is how exchanges and tunnels reach origins: dialing, TLS, and the
// pool of connections. Where a count has a limit, 0 means the default and -1
// means off.
type Transport struct {
	// DialTimeout bounds resolving a name and connecting, together. A
	// request that runs into it gets 504. Default: 10s.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// FallbackDelay is how long one address of a destination is tried
	// before the next one is tried as well (RFC 8305 §5, Connection Attempt
	// Delay). Default: 250ms.
	FallbackDelay caddy.Duration `json:"dial_fallback_delay,omitempty"`

	// ResponseHeaderTimeout is how long an origin may take from the end of
	// the request to the end of its response head; then 504. Each
	// informational response (1xx) lets it take as long again, up to three
	// times as long in all. Default: 5m.
	ResponseHeaderTimeout caddy.Duration `json:"response_header_timeout,omitempty"`

	// ResponseIdleTimeout is how long an origin may be silent within the body of
	// a response before the exchange is given up; the client sees it break. It does
	// not count while the origin takes bytes of the request. Default: 15m; -1 for
	// any time.
	ResponseIdleTimeout caddy.Duration `json:"response_idle_timeout,omitempty"`

	// ExpectContinueTimeout is how long an origin is waited for to answer
	// Expect: 100-continue before the body is sent anyway (RFC 9110
	// §10.1.1). Default: 1s.
	ExpectContinueTimeout caddy.Duration `json:"expect_continue_timeout,omitempty"`

	// MaxResponseHeader is the size, in bytes, above which a response head,
	// with the informational ones (1xx) before it, is refused with 502.
	// Default: 65536.
	MaxResponseHeader int64 `json:"max_response_header_size,omitempty"`

	// KeepAlive is about idle connections. Default: they are kept, as the
	// defaults of its fields say.
	KeepAlive *KeepAlive `json:"keep_alive,omitempty"`

	// MaxConnLifetime is the age, ±10%, from which on a connection is no
	// longer used again. Default: 10m; -1 for any age.
	MaxConnLifetime caddy.Duration `json:"max_conn_lifetime,omitempty"`

	// MaxConns limits the pooled connections to all origins, idle ones and
	// those being dialed included. Default: no limit.
	MaxConns int `json:"max_conns,omitempty"`

	// MaxConnsPerHost limits them per origin (scheme, host and port).
	// Default: 64; -1 for no limit.
	MaxConnsPerHost int `json:"max_conns_per_host,omitempty"`

	// MaxPerClient limits the exchanges that one client, by its IP address
	// (`{client_ip}`, so that trusted proxies count), may have at once over
	// pooled connections: under way, or waiting for a connection. Over it, a
	// request gets 503 at once. Transports with the same settings share
	// connections and so this limit. Default: no limit.
	MaxPerClient int `json:"max_per_client,omitempty"`

	// MaxPerUser limits them per authenticated user
	// (`{http.auth.user.id}`). Requests without a user have only the limit
	// of their client. Default: no limit.
	MaxPerUser int `json:"max_per_user,omitempty"`

	// ReuseUnsafe is which idle connections carry a request that must not be
	// sent twice (its method is not idempotent, RFC 9110 §9.2.2, so that it
	// cannot be repeated if the origin closes the connection just then):
	// `never` for none, so that each such request dials; `recent` for those
	// idle for less than 2s; `always` for any. Default: `recent`.
	ReuseUnsafe string `json:"reuse_unsafe,omitempty"`

	// MaxPending limits the requests that wait for a connection in all.
	// Over it, a request gets 503 at once. At most 8 connections to one origin
	// are dialed at the same time: who comes beyond these waits as well.
	// Default: 4096; -1: nobody waits.
	MaxPending int `json:"max_pending,omitempty"`

	// MaxPendingPerHost limits them per origin. Default: 128; -1: nobody
	// waits.
	MaxPendingPerHost int `json:"max_pending_per_host,omitempty"`

	// PendingTimeout is how long a request waits for a connection before it
	// gets 503. Default: 5s.
	PendingTimeout caddy.Duration `json:"pending_timeout,omitempty"`

	// TLS configures TLS towards origins of https:// exchanges, with the
	// settings of reverse_proxy's transport. Tunnels are not touched: their
	// TLS is between client and origin. Upstreams have TLS settings of their own. server_name, except_ports and
	// renegotiation have no meaning here and are refused.
	// handshake_timeout defaults to 10s.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`

	// Resolver is who is asked for the addresses of names, besides the hosts
	// file of the system, which comes first. Answers are remembered for their
	// time to live, at least 5s and at most 1h (30s those of the system's
	// resolver, and those that say that there are no addresses at most); for
	// up to 5m more where the resolver fails. Default: the system's resolver.
	Resolver *Resolver `json:"resolver,omitempty"`

	// HostsOverride are names with fixed addresses, which are asked for
	// nowhere else. The addresses pass the same access rules as all others.
	// Default: none.
	HostsOverride map[string][]string `json:"hosts_override,omitempty"`

	// PreferIP is the address family that is tried first, `4` or `6`, or the
	// only one that is used, `4_only` or `6_only`. Default: `6`.
	PreferIP string `json:"prefer_ip,omitempty"`

	// LocalAddresses are IP addresses of this machine that connections leave
	// from, to a destination of their family; if there is none of a family,
	// that family is not used. Default: the system's choice.
	LocalAddresses []string `json:"local_addresses,omitempty"`

	// LocalAddressPick is how one of several is chosen: `round_robin`, by each
	// new connection, or `user_hash`, the same one for all connections of a
	// user (of a client address, where nobody logs in), as long as the list
	// stays the same. With `user_hash`, pooled connections and TLS sessions are
	// shared only among users with the same address, and one of them for which a
	// destination fails does not close it for others; but a connection to an upstream
	// that is dialed ahead (standby), or that carries the tunnels of several
	// users (HTTP/2), has any of them. Default: `round_robin`.
	LocalAddressPick string `json:"local_address_pick,omitempty"`

	// Interface is the network interface that connections leave by
	// (SO_BINDTODEVICE). Linux only; an error elsewhere. Default: the one that
	// the routes of the system say.
	Interface string `json:"interface,omitempty"`
}

// KeepAlive is about connections that wait for their next request.
type KeepAlive struct {
	// Enabled is whether connections are kept at all. Default: true.
	Enabled *bool `json:"enabled,omitempty"`

	// IdleConnTimeout is how long a connection is kept idle. A shorter
	// timeout that the origin promises in its Keep-Alive field is honoured.
	// Default: 55s.
	IdleConnTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// MaxIdleConns limits the idle connections to all origins. Default:
	// 1024.
	MaxIdleConns int `json:"max_idle_conns,omitempty"`

	// MaxIdleConnsPerHost limits them per origin. Default: 32.
	MaxIdleConnsPerHost int `json:"max_idle_conns_per_host,omitempty"`
}

// maxDialsPerHost bounds the dials to one origin that run at once.
const maxDialsPerHost = 8

// maxHosts bounds the origins that the pool keeps a record of. Origins have one
// while they have a connection or somebody waits for one; further ones are
// served, but over connections that are not kept.
const maxHosts = 10_000

// The values of Transport.ReuseUnsafe.
const (
	reuseNever  = "never"
	reuseRecent = "recent"
	reuseAlways = "always"
)

var reusePolicies = []string{reuseNever, reuseRecent, reuseAlways}

// recentIdle is how long a connection may have been idle for reuseRecent: the
// longer it was idle, the likelier its peer closes it just now.
const recentIdle = 2 * time.Second

// withDefaults returns the settings with their defaults filled in.
func (t *Transport) withDefaults() Transport {
	out := Transport{}
	if t != nil {
		out = *t
	}
	settings.Default(&out.DialTimeout, caddy.Duration(10*time.Second))
	settings.Default(&out.FallbackDelay, caddy.Duration(250*time.Millisecond))
	settings.Default(&out.ResponseHeaderTimeout, caddy.Duration(5*time.Minute))
	settings.Default(&out.ResponseIdleTimeout, caddy.Duration(15*time.Minute))
	settings.Default(&out.ExpectContinueTimeout, caddy.Duration(time.Second))
	settings.Default(&out.MaxResponseHeader, 64<<10)
	settings.Default(&out.MaxConnLifetime, caddy.Duration(10*time.Minute))
	settings.Default(&out.MaxConnsPerHost, 64)
	settings.Default(&out.ReuseUnsafe, reuseRecent)
	settings.Default(&out.MaxPending, 4096)
	settings.Default(&out.MaxPendingPerHost, 128)
	settings.Default(&out.PendingTimeout, caddy.Duration(5*time.Second))
	ka, tlsCfg := KeepAlive{}, reverseproxy.TLSConfig{}
	if out.KeepAlive != nil {
		ka = *out.KeepAlive
	}
	settings.Default(&ka.IdleConnTimeout, caddy.Duration(55*time.Second))
	settings.Default(&ka.MaxIdleConns, 1024)
	settings.Default(&ka.MaxIdleConnsPerHost, 32)
	if out.TLS != nil {
		tlsCfg = *out.TLS
	}
	settings.Default(&tlsCfg.HandshakeTimeout, caddy.Duration(10*time.Second))
	out.KeepAlive, out.TLS = &ka, &tlsCfg
	out.setNameDefaults()
	return out
}

// leastHead and mostHead bound MaxResponseHeader.
const (
	leastHead = 1 << 10
	mostHead  = 16 << 20
)

// validate checks settings that have their defaults.
func (t *Transport) validate() error {
	for _, d := range []struct {
		name  string
		value caddy.Duration
	}{
		{"dial_timeout", t.DialTimeout},
		{"dial_fallback_delay", t.FallbackDelay},
		{"response_header_timeout", t.ResponseHeaderTimeout},
		{"expect_continue_timeout", t.ExpectContinueTimeout},
		{"pending_timeout", t.PendingTimeout},
		{"keep_alive.idle_timeout", t.KeepAlive.IdleConnTimeout},
		{"tls.handshake_timeout", t.TLS.HandshakeTimeout},
	} {
		if d.value < 0 {
			return fmt.Errorf("transport.%s: %s is not positive", d.name, time.Duration(d.value))
		}
	}
	for _, d := range []struct {
		name  string
		value caddy.Duration
	}{
		{"max_conn_lifetime", t.MaxConnLifetime},
		{"response_idle_timeout", t.ResponseIdleTimeout},
	} {
		if d.value < 0 && d.value != words.NoLimit {
			return fmt.Errorf("transport.%s: %s is not positive (-1 is off)", d.name, time.Duration(d.value))
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"max_conns", t.MaxConns},
		{"max_conns_per_host", t.MaxConnsPerHost},
		{"max_per_client", t.MaxPerClient},
		{"max_per_user", t.MaxPerUser},
		{"max_pending", t.MaxPending},
		{"max_pending_per_host", t.MaxPendingPerHost},
	} {
		if n.value < words.NoLimit {
			return fmt.Errorf("transport.%s: %d is below 1 (-1 is off)", n.name, n.value)
		}
	}
	if err := t.validateNames(); err != nil {
		return err
	}
	return t.validateSizes()
}

func (t *Transport) validateSizes() error {
	if t.MaxResponseHeader < leastHead || t.MaxResponseHeader > mostHead {
		return fmt.Errorf("transport.max_response_header_size: %d is not between %d and %d bytes", t.MaxResponseHeader, leastHead, mostHead)
	}
	if t.KeepAlive.MaxIdleConns < 1 {
		return fmt.Errorf("transport.keep_alive.max_idle_conns: %d is below 1 (to keep none, set enabled to false)", t.KeepAlive.MaxIdleConns)
	}
	if t.KeepAlive.MaxIdleConnsPerHost < 1 {
		return fmt.Errorf("transport.keep_alive.max_idle_conns_per_host: %d is below 1 (to keep none, set enabled to false)", t.KeepAlive.MaxIdleConnsPerHost)
	}
	if !slices.Contains(reusePolicies, t.ReuseUnsafe) {
		return fmt.Errorf("transport.reuse_unsafe: unknown value %q: one of %s", t.ReuseUnsafe, strings.Join(reusePolicies, ", "))
	}
	if t.TLS.ServerName != "" {
		return errors.New("transport.tls.server_name: an origin's certificate is always checked against the name that the client asked for")
	}
	return reach.CheckTLS(t.TLS, "transport.tls", "a request")
}

// poolConfig is what the settings mean for the pool.
func (t *Transport) poolConfig() connpool.Config {
	off := func(n int) int { return max(n, 0) }
	cfg := connpool.Config{
		MaxConnsPerKey:   off(t.MaxConnsPerHost),
		MaxConns:         off(t.MaxConns),
		MaxIdlePerKey:    t.KeepAlive.MaxIdleConnsPerHost,
		MaxIdle:          t.KeepAlive.MaxIdleConns,
		IdleTimeout:      time.Duration(t.KeepAlive.IdleConnTimeout),
		MaxLifetime:      max(time.Duration(t.MaxConnLifetime), 0),
		MaxPendingPerKey: off(t.MaxPendingPerHost),
		MaxPending:       off(t.MaxPending),
		PendingTimeout:   time.Duration(t.PendingTimeout),
		MaxDialsPerKey:   maxDialsPerHost,
		DialTimeout:      time.Duration(t.DialTimeout + t.TLS.HandshakeTimeout),
		MaxKeys:          maxHosts,
		Shared:           descriptors.Idle,
	}
	if t.KeepAlive.Enabled != nil && !*t.KeepAlive.Enabled {
		cfg.MaxIdlePerKey, cfg.MaxIdle, cfg.IdleTimeout = 0, 0, 0
	}
	return cfg
}

// UnsafeIdle is what ReuseUnsafe means for connpool.Request.MaxIdle.
func (t *Transport) unsafeIdle() time.Duration {
	switch t.ReuseUnsafe {
	case reuseNever:
		return -1
	case reuseAlways:
		return 0
	default:
		return recentIdle
	}
}
