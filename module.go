// Package egress is a Caddy HTTP handler module that makes a Caddy server a
// forward proxy with an upstream connection manager: exchanges (requests in
// absolute form) go over pooled connections, tunnels (CONNECT) are relayed byte
// for byte, every address is checked before it is dialed, and destinations that
// fail are given a pause.
package egress

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/admin"
	_ "github.com/caddy-egress/egress/admin/commands"
	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/events"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/metrics"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/retry"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/upstream"
	_ "github.com/caddy-egress/egress/status" // registers the handler egress_status
	"github.com/caddy-egress/egress/upstreams"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler is a forward proxy. It answers requests in absolute form
// (`GET http://host/path`) and CONNECT requests, from clients on HTTP/1.1,
// HTTP/2 and HTTP/3; every other request goes to the next handler, so that a
// site and a proxy can share a server.
//
// The server must be a catch-all (`:8080`, or `:443, proxy.example.com`): in a
// site block with only a host name Caddy answers CONNECT for other hosts itself,
// with an empty 200.
//
// Placeholders set by this handler:
//
// Placeholder | Description
// ------------|---------------
// `{http.egress.path}` | How the request left: `direct` or `upstream`
// `{http.egress.group}` | The group of upstream proxies that the route chose
// `{http.egress.upstream}` | The upstream proxy of the last attempt, without credentials
// `{http.egress.remote_ip}` | IP address that was dialed
// `{http.egress.reused}` | Whether the connection was used before
// `{http.egress.attempts}` | How many connections were tried
// `{http.egress.dial_duration}` | Time it took to get a new connection, in seconds
// `{http.egress.ttfb}` | Time from the request to the response head of the origin, in seconds
// `{http.egress.duration}` | Time the request took, in seconds
// `{http.egress.bytes_up}` | Bytes from the client to the origin: body, or tunnel
// `{http.egress.bytes_down}` | Bytes from the origin to the client: body, or tunnel
// `{http.egress.close_reason}` | Why a tunnel ended: `client`, `origin`, `idle`, …
// `{http.egress.blame}` | Who a failure is charged to: `client`, `policy`, `dns`, `origin`, `upstream`, `network`, `proxy`
// `{http.egress.reason}` | What failed, as the error type of RFC 9209
// `{http.egress.error}` | The error behind a failure, for logs: it may name addresses and rules
// `{http.egress.auth_error}` | Why authentication failed: `missing`, `malformed`, `unknown_user`, `bad_password`
// `{http.egress.auth_user}` | The user name of a failed login: what is printable of its first 64 bytes
// `{http.egress.fallback_from}` | The group that could not serve the request, which left over the fallback of its route
// `{http.auth.user.id}` | The user, after successful authentication only
//
// The same values are in the access log as the object `egress`.
type Handler struct {
	// Name is what this handler is known by from one configuration to the next:
	// one with the same name keeps its tunnels and their limits, wherever it
	// stands. Up to 64 letters, digits, `-`, `_` and `.`; a name that two handlers
	// of a configuration have is an error. In a named route, of which each server that
	// uses it has an instance, those after the first have a number behind their name, in
	// the order of the addresses of their servers: `corp`, `corp#2`. Default: the place of the handler,
	// that is, the addresses of its server, and which of the handlers there it is,
	// as in `:8080#1`.
	Name string `json:"name,omitempty"`

	// ServerName is the name of this proxy in the Via (RFC 9110 §7.6.3) and
	// Proxy-Status (RFC 9209) fields: a token that begins with a letter.
	// Default: `caddy`.
	ServerName string `json:"server_name,omitempty"`

	// Hosts are the names of the site that shares the server with the proxy.
	// Requests for them in absolute form go to the next handler. On HTTP/2
	// and HTTP/3 a handler cannot see the scheme of a request; there, with
	// Hosts set, a request for any other host counts as one to be forwarded
	// (over TLS where its port is 443), and without Hosts none does. CONNECT
	// works everywhere without. Default: none.
	Hosts []string `json:"hosts,omitempty"`

	// Auth says who may use the proxy. Default: everybody.
	Auth *Auth `json:"auth,omitempty"`

	// AllowUnauthenticated silences the warning about a proxy without
	// authentication on an address that is not loopback. An error with Auth.
	// Default: false.
	AllowUnauthenticated bool `json:"allow_unauthenticated,omitempty"`

	// AdminAddresses are addresses (`host:port`) of listeners of this process,
	// the admin endpoint above all, that are bound to a host name other than
	// `localhost`, so that they are recognised and never dialed. On Linux they
	// are known without: the kernel is asked what this process listens on. Those of the
	// sites of this configuration, and listeners that are bound to an IP
	// address in its usual spelling, to `localhost` or to all addresses, are
	// known without. Default: none.
	AdminAddresses []string `json:"admin_addresses,omitempty"`

	// AllowedPorts are the ports that may be reached, each a number or a
	// range (`"8000-8999"`). Default: every port but 25.
	AllowedPorts []PortRange `json:"allowed_ports,omitempty"`

	// ACL are the access rules, in order; the first that matches decides.
	// Whatever they say, loopback, private, link-local and other special
	// addresses are denied unless a rule allows them by IP or CIDR. Default:
	// none; then all other addresses are allowed.
	ACL []ACLRule `json:"acl,omitempty"`

	// ResolveNames resolves the names of destinations here as well when an
	// upstream proxy will resolve them, and refuses those with an address that
	// may not be reached. What the upstream makes of the name later is its own
	// affair: the check is about what names mean to us. A name with more than
	// 32 addresses of a family is refused. Default: false; then names are
	// checked as names, and literal addresses as addresses; but `localhost`,
	// names below it, and those in hosts_override or the hosts file by the
	// addresses that they have there. Where only some members of a group are
	// told addresses (socks5), all names for it are checked as if it were true,
	// but for those that cannot be resolved here.
	ResolveNames bool `json:"resolve_names,omitempty"`

	// Routes say where requests leave. Default: through the group `default`
	// if there is one, directly otherwise.
	Routes []*Route `json:"routes,omitempty"`

	// Groups are the upstream proxies, in groups by name. `direct` and `deny`
	// cannot be names. A group to which no route leads is an error. Default:
	// none.
	Groups map[string]*upstreams.Group `json:"groups,omitempty"`

	// DestinationCircuit is the passive health of destinations. Default: on,
	// with the defaults of its fields.
	DestinationCircuit *DestinationCircuit `json:"destination_circuit,omitempty"`

	// Transport is how origins are reached. Default: as the defaults of its
	// fields say.
	Transport *Transport `json:"transport,omitempty"`

	// Tunnel holds the timers and limits of tunnels. Default: as the defaults
	// of its fields say.
	Tunnel *Tunnel `json:"tunnel,omitempty"`

	// Forwarded is what the Forwarded field (RFC 7239) tells the origin of
	// the client: `off` for no field, `for` for its address, `full` for
	// address, protocol and host as well. Default: `for`.
	Forwarded string `json:"forwarded,omitempty"`

	// HideIP replaces the client's address in the Forwarded field by
	// `unknown` (RFC 7239 §6.2). Default: false.
	HideIP bool `json:"hide_ip,omitempty"`

	// HideVia leaves out our element of the Via field, on requests (CONNECT to
	// upstreams included) and responses. Loops over several proxies can no
	// longer be recognised then, only bounded. Default: false.
	HideVia bool `json:"hide_via,omitempty"`

	// HideTrace takes the fields `traceparent` and `tracestate` (W3C Trace
	// Context) off requests that leave, CONNECT to upstreams included. What
	// a route sets leaves all the same. Default: false, they go on; under the
	// `tracing` directive, naming the span of the attempt.
	HideTrace bool `json:"hide_trace,omitempty"`

	// MetricsUsers are users whose requests and bytes metrics tell apart, 500 at
	// most; those of all others are told as `_other`. Default: none, then metrics
	// tell nothing of users.
	MetricsUsers []string `json:"metrics_users,omitempty"`

	logger         *zap.Logger
	accessLogger   *zap.Logger
	proxy          core.Proxy // what serves the requests
	exchanges      exchange.Config
	circuit        DestinationCircuit
	direct         *exitUse
	reach          string            // identity of the settings by which destinations are reached
	destinations   *destination.Path // directly
	adminAddresses []self.HostPort
	hosts          map[string]struct{}
	groups         map[string]*upstream.Group
	groupExits     map[string]*exitUse
	unrouted       *Route // where there are no routes
	poolUse        *shared.Use[*origin.Pool]
	names          *dial.Names
	namesUse       *shared.Use[*dial.Names]
	transport      Transport
	tunnel         Tunnel
	leaveIdentity  func()            // set with the tunnels of proxy
	besides        <-chan struct{}   // set with the policy of proxy: the activeConfig of then
	server         *caddyhttp.Server // nil if it is in none
	first          bool              // of the handlers of server
	running        bool              // not provisioned to be explained only
	waiting        sync.Once         // for tellWaiting
	recorder       *metrics.Use
	events         *events.Queue
	ruleHits       *shared.Use[*acl.Hits]
	lastReload     atomic.Pointer[admin.Reload] // nil before the first one
	leaveRegistry  func()
	leaveOrders    func()
}

// CaddyModule returns the Caddy module information. It is asked for with each event, also
// while the handler is cleaned up: with a value for its receiver, it would read all of it.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.egress",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.proxy.Logger, h.proxy.Limited = h.logger, new(core.LimitLog)
	h.proxy.Router, h.proxy.ResolveNames, h.proxy.HideVia = h, h.ResolveNames, h.HideVia
	h.accessLogger = ctx.Logger(accessLogModule{})
	registry := admin.RegistryOf(ctx)
	for _, step := range []func(caddy.Context) error{
		h.readSettings,
		h.provisionEvents,
		h.provisionOrders,
		h.provisionNames,
		h.provisionAuth,
		h.provisionTunnel,
		h.tellLimits,
		h.provisionPolicy,
		h.provisionTransport,
		h.provisionMetrics,
		h.provisionGroups,
		h.provisionRoutes,
		h.enterBook, // last: from then on it may be asked about tunnels
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	h.exchanges = exchange.Config{
		HeadTimeout:   time.Duration(h.transport.ResponseHeaderTimeout),
		BodyIdle:      max(time.Duration(h.transport.ResponseIdleTimeout), 0),
		ExpectTimeout: time.Duration(h.transport.ExpectContinueTimeout),
		MaxHead:       int(h.transport.MaxResponseHeader),
	}
	h.proxy.Forwarded, h.proxy.HideIP, h.proxy.HideTrace = h.Forwarded, h.HideIP, h.HideTrace
	h.proxy.UnsafeIdle = h.transport.unsafeIdle()
	h.proxy.Budget, h.proxy.Pins = retry.NewBudget(retry.BudgetShare, retry.MaxDirect), origin.NewPins(h.transport.poolConfig())
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		h.server = server
		followPins(h.proxy.Pins, server)
		setWindows(server)
		h.countClients(server)
		h.warnAboutServer(server)
	}
	h.drainAtExit(ctx)
	if h.running = registry == &admin.Handlers; h.running {
		h.start(ctx)
	}
	h.leaveRegistry = registry.Add((*served)(h))
	return nil
}

// start begins with what a handler does by itself: it follows files and sources, and
// checks upstreams once the configuration runs. One that is provisioned to be explained
// only does none of this.
func (h *Handler) start(ctx caddy.Context) {
	live, policy := &h.proxy.Tunnels.Value.Live, h.proxy.Policy
	h.proxy.Access.Follow(func() { live.Changed(policy) }, h.tellOf(h.place()))
	for _, g := range h.groups {
		g.Follow()
	}
	h.awaitStart(ctx)
}

// readSettings does what holds for all settings, before anything looks at one of them.
func (h *Handler) readSettings(caddy.Context) error {
	if err := settings.ReplacePlaceholders(h); err != nil {
		return err
	}
	return settings.CheckDurations(h)
}

// provisionNames sets the names of the proxy and its site.
func (h *Handler) provisionNames(caddy.Context) error {
	settings.Default(&h.ServerName, "caddy")
	if err := checkServerName(h.ServerName); err != nil {
		return fmt.Errorf("server_name: %q is %w", h.ServerName, err)
	}
	settings.Default(&h.Forwarded, "for")
	switch h.Forwarded {
	case "off", "for", "full":
	default:
		return fmt.Errorf("forwarded: unknown value %q: one of off, for, full", h.Forwarded)
	}
	h.proxy.Via = core.NewVia(h.ServerName)
	h.hosts = make(map[string]struct{}, len(h.Hosts))
	for _, name := range h.Hosts {
		host, err := parseHost(name)
		if err != nil {
			return fmt.Errorf("hosts: '%s': %w", plaintext.Printable(name), err)
		}
		h.hosts[host] = struct{}{}
	}
	for _, addr := range h.AdminAddresses {
		hp, err := self.ParseHostPort(addr)
		if err != nil {
			return fmt.Errorf("admin_addresses: '%s': %w", addr, err)
		}
		h.adminAddresses = append(h.adminAddresses, hp)
	}
	return nil
}

func checkServerName(name string) error {
	if !plaintext.IsServerName(name) {
		return errors.New("not a token that begins with a letter")
	}
	return nil
}

// parseHost reads a name or an address of the site itself, in canonical form.
func parseHost(name string) (string, error) {
	host, _, err := target.ParseHost(name)
	if err != nil {
		return "", target.ReasonOf(err)
	}
	return host, nil
}

func (h *Handler) provisionAuth(ctx caddy.Context) error {
	if h.Auth == nil {
		return nil
	}
	if err := h.Auth.provision(ctx, h.logger); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	return nil
}

func (h *Handler) provisionPolicy(caddy.Context) error {
	var err error
	if h.ruleHits, err = acl.SharedHits.Use(h.place(), func() (*acl.Hits, error) { return acl.NewHits(), nil }); err != nil {
		return err
	}
	access, err := acl.NewRules(h.rules(), h.AllowedPorts, h.ruleHits.Value, h.logger.Named("acl"))
	if err != nil {
		return err
	}
	h.proxy.Access = access // from here on Cleanup stops it
	h.warnAboutRules()
	circuit := h.DestinationCircuit.withDefaults()
	if err := circuit.validate(); err != nil {
		return err
	}
	h.circuit = circuit
	return nil
}

// Validate checks what can be checked only when everything is provisioned.
func (h *Handler) Validate() error {
	if h.Auth != nil && !h.Auth.enabled() {
		return errors.New("auth: names no users; leave it out to let everybody in")
	}
	return h.checkAuth()
}

// checkAuth refuses users together with the word that says that there are none.
func (h *Handler) checkAuth() error {
	if h.Auth.enabled() && h.AllowUnauthenticated {
		return errors.New("allow_unauthenticated: contradicts basic_auth, with which everybody has to log in; leave one of them out")
	}
	return nil
}

// Cleanup releases what Provision acquired. Requests may still be under way:
// they finish.
func (h *Handler) Cleanup() error {
	if h.leaveRegistry != nil {
		h.handOver()
		h.leaveRegistry()
	}
	if h.leaveOrders != nil {
		h.leaveOrders()
	}
	if h.proxy.Access != nil {
		h.proxy.Access.Stop()
	}
	if h.proxy.Limited != nil {
		h.proxy.Limited.End(h.logger)
	}
	h.releaseTunnels()
	h.recorder.Release()
	return errors.Join(h.closeGroups(), h.releaseTransport(), h.ruleHits.Release())
}

// accessLogModule lends its ID to the logger of tunnels' access-log lines: it is
// the name under which Caddy logs accesses, so that logs configured for them
// take the lines of tunnels as well. It is never registered.
type accessLogModule struct{}

// CaddyModule returns the Caddy module information.
func (accessLogModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.log.access"}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
