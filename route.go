package egress

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/matchers"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the routes: where a request leaves.

// defaultGroup is the group of upstreams that are written without one.
const defaultGroup = "default"

// Route says where requests leave that its matchers match. Routes are tried in
// order and the first that matches decides. Without any route, requests leave
// through the group `default` if there is one, and directly otherwise. With
// routes, a request that none matches is refused with 403.
type Route struct {
	// MatcherSetsRaw are the matchers, Caddy's own. `host`, `header Host` and
	// the placeholders `{http.request.host}`, `{http.request.hostport}` and
	// `{http.request.port}` show the destination as it is dialed: a lower-case
	// ASCII name without a trailing dot, or an IP address in its usual form,
	// whatever the client has written. The port is there for CONNECT, and for
	// exchanges where it is not the one of the scheme. A pattern of `host` in
	// another form, also by its global placeholders, or with an asterisk that is
	// not a whole label is an error: it could never match. What stands in an
	// `expression` is not checked like this. A route matches if one of the sets
	// does. Default: it matches every request.
	MatcherSetsRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`

	// To is the name of a group, or `direct`, or `deny` (403).
	To string `json:"to"`

	// Fallback is where requests leave for which To, a group, has no member
	// that could be used: another group, `direct` or `deny`. Going direct
	// passes the full check of addresses. Default: none; such a request gets
	// the error of the group.
	Fallback string `json:"fallback,omitempty"`

	// Headers changes fields: those of requests on their way up, which for
	// tunnels means the CONNECT request to an HTTP upstream, and those of the
	// responses of exchanges. What is deleted or replaced is so in trailer
	// sections too; what is set or added stands in the header only. Fields that
	// frame messages or connections, Host and Proxy-Authorization cannot be
	// changed. Default: none are.
	Headers *headers.Handler `json:"headers,omitempty"`

	// LocalAddresses are IP addresses of this machine that connections leave
	// from which the route makes directly: because To is `direct`, or because
	// Fallback is. They stand instead of those of the transport, with the same
	// meaning, and connections are shared with no request that leaves from
	// others. An error where neither is `direct`: upstreams have local
	// addresses of their own. Default: those of the transport, or the
	// system's choice where Interface is set.
	LocalAddresses []string `json:"local_addresses,omitempty"`

	// LocalAddressPick is how one of several is chosen: `round_robin` or
	// `user_hash`, as in the transport. Default: `round_robin`.
	LocalAddressPick string `json:"local_address_pick,omitempty"`

	// Interface is the network interface that these connections leave by.
	// Linux only; an error elsewhere. Default: that of the transport.
	Interface string `json:"interface,omitempty"`

	// PreferIP says which of the addresses of a destination the route takes that
	// it connects to directly: `4`, `6`, `4_only` or `6_only`, as in the
	// transport. Default: that of the transport.
	PreferIP string `json:"prefer_ip,omitempty"`

	at       *caddyfile.Dispenser // where it stands in a Caddyfile; nil elsewhere
	matchers caddyhttp.MatcherSets
	written  []string // the matcher sets, for people
	exit     *exitUse // directly, where that differs from the handler's; nil otherwise
	way      core.Route
}

// provisionRoutes loads the matchers and finds the groups that routes name.
func (h *Handler) provisionRoutes(ctx caddy.Context) error {
	for i, r := range h.Routes {
		if err := h.provisionRoute(ctx, i+1, r); err != nil {
			return fmt.Errorf("routes[%d]: %w", i, err)
		}
	}
	if len(h.Routes) == 0 {
		h.unrouted = &Route{way: core.Route{To: core.Exit{Group: h.groups[defaultGroup]}, Direct: h.proxy.Direct}}
	}
	for name := range h.Groups {
		if err := h.checkUsed(name); err != nil {
			return fmt.Errorf("groups.%s: %w", name, err)
		}
	}
	return nil
}

func (h *Handler) provisionRoute(ctx caddy.Context, number int, r *Route) error {
	if r == nil {
		return errors.New("is null")
	}
	r.written = matchers.Texts(r.MatcherSetsRaw) // before they are loaded, which empties the JSON
	sets, err := ctx.LoadModule(r, "MatcherSetsRaw")
	if err != nil {
		return fmt.Errorf("match: %w", err)
	}
	if err := r.matchers.FromInterface(sets); err != nil {
		return fmt.Errorf("match: %w", err)
	}
	for _, set := range r.matchers {
		if err := matchers.CheckHosts(set); err != nil {
			return fmt.Errorf("match: host: %w", err)
		}
	}
	denied := core.Denied{Route: number, Matchers: plaintext.Short(strings.Join(r.written, "; "), maxMatchers)}
	if r.way.To, err = h.findTarget(r.To, denied); err != nil {
		return fmt.Errorf("to: %w", err)
	}
	if r.Fallback != "" {
		if err := r.checkFallback(); err != nil {
			return fmt.Errorf("fallback: %w", err)
		}
		denied.To = r.To
		fallback, err := h.findTarget(r.Fallback, denied)
		if err != nil {
			return fmt.Errorf("fallback: %w", err)
		}
		r.way.Fallback = &fallback
	}
	if err := r.provisionSource(h); err != nil {
		return err
	}
	if r.Headers == nil {
		return nil
	}
	if err := checkHeaderOps(r.Headers); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	r.way.Changes = headerChanges(r.Headers)
	return r.Headers.Provision(ctx)
}

// headerChanges are what the settings change, with the placeholders of the request.
func headerChanges(h *headers.Handler) (c core.Changes) {
	apply := func(ops *headers.HeaderOps) func(http.Header, *http.Request) {
		if ops == nil {
			return nil
		}
		return func(header http.Header, r *http.Request) { ops.ApplyTo(header, caddyserver.Replacer(r)) }
	}
	return core.Changes{Request: apply(h.Request), Response: apply(responseOps(h))}
}

// maxMatchers is how much of the matchers of a route an error tells.
const maxMatchers = 120

func (h *Handler) findTarget(name string, denied core.Denied) (core.Exit, error) {
	switch name {
	case core.ExitDirect:
		return core.Exit{}, nil
	case core.ExitDeny:
		return core.Exit{Deny: &denied}, nil
	case "":
		return core.Exit{}, fmt.Errorf("is empty: %s, %s or the name of a group", core.ExitDirect, core.ExitDeny)
	}
	if err := h.checkTarget(name); err != nil {
		return core.Exit{}, err
	}
	return core.Exit{Group: h.groups[name]}, nil
}

// checkUsed refuses a group that no request is sent through.
func (h *Handler) checkUsed(name string) error {
	leads := func(r *Route) bool { return r.To == name || r.Fallback == name }
	if len(h.Routes) == 0 && name == defaultGroup || slices.ContainsFunc(h.Routes, leads) {
		return nil
	}
	return errors.New("no route leads to it")
}

// checkFallback refuses a fallback that can never be needed.
func (r *Route) checkFallback() error {
	switch {
	case r.Fallback == "":
		return nil
	case r.To == core.ExitDirect || r.To == core.ExitDeny:
		return fmt.Errorf("'%s' never fails over; only groups do", r.To)
	case r.Fallback == r.To:
		return fmt.Errorf("'%s' is where the route leads already", r.To)
	}
	return nil
}

// checkTarget says what there is where a name is no target.
func (h *Handler) checkTarget(name string) error {
	targets := []string{core.ExitDirect, core.ExitDeny}
	targets = append(targets, slices.Sorted(maps.Keys(h.Groups))...)
	return words.Known("target", name, targets)
}

// checkHeaderOps refuses changes to fields that are not the operator's.
func checkHeaderOps(h *headers.Handler) error {
	if h.Response != nil && (h.Response.Require != nil || h.Response.Deferred) {
		return errors.New("response: require and deferred have no meaning here: the head is there when it is changed")
	}
	for _, ops := range []*headers.HeaderOps{h.Request, responseOps(h)} {
		if ops == nil {
			continue
		}
		for _, names := range [...]func(func(string) error) error{
			eachKey(ops.Add), eachKey(ops.Set), eachKey(ops.Replace), eachName(ops.Delete),
		} {
			if err := names(checkFieldName); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkFieldName(name string) error {
	if !exchange.Settable(name) {
		return fmt.Errorf("the field %s cannot be changed", plaintext.Escaped(name))
	}
	return nil
}

func eachKey[V any, M ~map[string]V](m M) func(func(string) error) error {
	return func(f func(string) error) error {
		for name := range m {
			if err := f(name); err != nil {
				return err
			}
		}
		return nil
	}
}

func eachName(names []string) func(func(string) error) error {
	return func(f func(string) error) error {
		for _, name := range names {
			if err := f(name); err != nil {
				return err
			}
		}
		return nil
	}
}

func responseOps(h *headers.Handler) *headers.HeaderOps {
	if h.Response == nil {
		return nil
	}
	return h.Response.HeaderOps
}

// Route implements router.
func (h *Handler) Route(r *http.Request) (*core.Route, error) {
	route, err := h.findRoute(r)
	if err != nil {
		return nil, err
	}
	return &route.way, nil
}

// findRoute returns the first route that matches.
func (h *Handler) findRoute(r *http.Request) (*Route, error) {
	if h.unrouted != nil {
		return h.unrouted, nil
	}
	for _, route := range h.Routes {
		matches, err := route.matchers.AnyMatchWithError(r)
		if err != nil {
			return nil, matchers.Failed(err)
		}
		if matches {
			return route, nil
		}
	}
	return nil, failure.Denied.Because(core.ErrNoRoute)
}

// errSourceUnused refuses settings about connections that the route never makes.
var errSourceUnused = errors.New("neither the target nor the fallback is direct; upstreams have a local_address, an interface and a prefer_ip of their own")

// hasSource reports whether the route says where its connections leave from.
func (r *Route) hasSource() bool {
	return len(r.LocalAddresses) > 0 || r.LocalAddressPick != "" || r.Interface != ""
}

// leavesDirectly reports whether requests of the route may leave past all upstreams.
func (r *Route) leavesDirectly() bool {
	return r.To == core.ExitDirect || r.Fallback == core.ExitDirect
}

// provisionSource finds the door through which the route leaves directly: that of the
// handler, or one that differs in where connections come from, and in the addresses of
// a destination that it takes.
func (r *Route) provisionSource(h *Handler) error {
	r.way.Direct = h.proxy.Direct
	if !r.hasSource() && r.PreferIP == "" {
		return nil
	}
	if !r.leavesDirectly() {
		return fmt.Errorf("local_addresses, interface, prefer_ip: %w", errSourceUnused)
	}
	d, err := h.proxy.Direct.Leaving(r.PreferIP, r.LocalAddresses, r.LocalAddressPick, r.Interface)
	if err != nil {
		return err
	}
	if r.hasSource() {
		h.warnAboutSources(d.Sources)
	}
	if r.exit, err = useExit(h.circuit, h.place(), h.reach, d.ID.Value()); err != nil {
		return err
	}
	r.way.Direct = &core.Direct{Dialer: d, Circuits: r.exit.Value.circuits.Path("", h.logger.Named("health"))}
	return nil
}
