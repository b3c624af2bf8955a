package upstreams

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

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
