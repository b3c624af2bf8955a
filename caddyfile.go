package egress

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/words"
	"github.com/caddy-egress/egress/upstreams"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("egress", parseCaddyfile)
	// Before header: header, encode, redir, handle and the like of the same
	// site then act only on what is not ours.
	httpcaddyfile.RegisterDirectiveOrder("egress", httpcaddyfile.Before, "header")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.unmarshalCaddyfile(h.Dispenser, h.MatcherToken); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	egress [<matcher>] [<upstream-url>...] {
//		name        <name>
//		server_name <token>
//		hosts <names...>
//
//		# who may use it
//		basic_auth <user> <password|hash>
//		realm <text>
//		session_from user_suffix <separator>
//		allow_unauthenticated
//
//		# where it may go
//		ports <port|range>...
//		acl {
//			allow|deny           <subject>...
//			allow_file|deny_file <path>
//			resolve
//		}
//		admin_address <host:port>...
//		destination_circuit off
//		destination_circuit {
//			failures     <count>
//			window       <duration>
//			open_for     <duration>
//			max_open_for <duration>
//		}
//
//		route [<matcher>] <target> [fallback <target>]
//		route {
//			match { <matchers> }
//			to <target> [fallback <target>]
//			header_up   [+|-]<field> [<value|regexp> [<replacement>]]
//			header_down [+|-]<field> [<value|regexp> [<replacement>]]
//			local_address <ip...> {
//				pick round_robin|user_hash
//			}
//			interface <name>
//			prefer_ip 4|6|4_only|6_only
//		}
//
//		# upstream proxies
//		upstream <url> {
//			weight               <weight>
//			priority             <tier>
//			max_conns            <count>|off
//			max_pending          <count>|off
//			max_tunnels          <count>|off
//			max_tunnels_per_conn <count>
//			standby              <count>|off
//			credentials          <user> <password>
//			proxy_protocol       v1|v2|off
//			local_address        <ip...> {
//				pick round_robin|user_hash
//			}
//			interface            <name>
//			prefer_ip            4|6|4_only|6_only
//			header               <field> <value>
//			tls_server_name      <name>
//			<TLS as in transport>
//		}
//		upstreams <group> {
//			upstream    <url> { ... }
//			file        <path>
//			dynamic     <source> ...
//			scheme      http|https|socks5|socks5h
//			credentials <user> <password>
//			<TLS as in upstream>
//
//			lb_policy       <name> [<options>]
//			lb_retries      <count>|off
//			lb_try_duration <duration>
//			lb_try_interval <duration>|off
//			attempt_timeout <duration>
//			retry_budget    <share>|off
//			hedge           [<quantile>]|off
//
//			health_check    tcp|tls|http|connect|off [<target>...]
//			health_interval <duration>
//			health_timeout  <duration>
//			health_passes   <count>
//			health_fails    <count>
//			health_status   <status>
//			health_body     <regexp>
//			health_headers {
//				<field> [<values...>]
//			}
//
//			circuit {
//				consecutive_failures <count>
//				min_success_rate     <share>|off
//				window               <duration>
//				min_samples          <count>
//				open_for             <duration>
//				max_open_for         <duration>
//				max_ejected          <share>
//				panic_below          <share>|off
//			}
//			slow_start <duration>|off
//		}
//
//		# how it gets there
//		transport {
//			dial_timeout                  <duration>
//			dial_fallback_delay           <duration>
//			tls_timeout                   <duration>
//			response_header_timeout       <duration>
//			response_idle_timeout         <duration>|off
//			expect_continue_timeout       <duration>
//			keepalive                     <duration>|off
//			keepalive_idle_conns          <count>
//			keepalive_idle_conns_per_host <count>
//			max_conn_lifetime             <duration>|off
//			max_conns                     <count>|off
//			max_conns_per_host            <count>|off
//			max_per_client                <count>|off
//			max_per_user                  <count>|off
//			reuse_unsafe                  never|recent|always
//			max_pending                   <count>|off
//			max_pending_per_host          <count>|off
//			pending_timeout               <duration>
//			max_response_header           <size>
//			resolvers                     <server...> {
//				<TLS as in transport, but tls_timeout>
//			}
//			hosts_override                <name> <ip...>
//			prefer_ip                     4|6|4_only|6_only
//			local_address                 <ip...> {
//				pick round_robin|user_hash
//			}
//			interface                     <name>
//			tls_insecure_skip_verify
//			tls_trust_pool                <module> { ... }
//			tls_client_auth               <automate_name> | <cert_file> <key_file>
//			tls_curves                    <curves...>
//		}
//		tunnel {
//			idle_timeout       <duration>|off
//			timeout            <duration>|off
//			half_close_timeout <duration>|off
//			max_tunnels        <count>|off
//			max_per_client     <count>|off
//			max_per_user       <count>|off
//			rate_per_tunnel    <size>|off
//			rate_per_user      <size>|off
//			close_delay        <duration>|off
//			on_policy_change   keep|close
//		}
//
//		# what it tells
//		forwarded off|for|full
//		hide_ip
//		hide_via
//		hide_trace
//		metrics_users <user...>
//	}
//
// Upstream URLs behind egress, and upstream outside of a group, are the members of
// the group default. A target is direct, deny or the name of a group. In JSON, TLS
// settings of upstreams are those of reverse_proxy's transport.
//
// Subjects of acl are all, private, an IP address, a CIDR, an IP:port, a host
// name, or *.name for the name and everything below it; files hold one a line. A server of resolvers is
// an IP address, IP:port, or a URL with the scheme udp, tcp, tls or https.
// basic_auth, ports, hosts, admin_address, acl, route, upstream, upstreams and
// hosts_override may be repeated and add up; every other word stands at most once.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return h.unmarshalCaddyfile(d, nil)
}

// unmarshalCaddyfile is UnmarshalCaddyfile where the named matchers of the site are
// known as well.
func (h *Handler) unmarshalCaddyfile(d *caddyfile.Dispenser, matchers matcherToken) error {
	if err := words.CheckText(d); err != nil {
		return err
	}
	d.Next() // directive name
	at := *d
	for _, u := range d.RemainingArgs() {
		if err := upstreams.ValidURL(u); err != nil {
			return d.Errf("upstream: %v", err)
		}
		h.group(defaultGroup).Add(u, &at)
	}
	if err := block(d, "egress", h.words(d, matchers), "basic_auth", "ports", "hosts", "admin_address", "acl", "route", "upstream", "upstreams"); err != nil {
		return err
	}
	if h.Auth != nil && !h.Auth.enabled() {
		return at.Err("realm and session_from are for users who log in, and there are none; write basic_auth")
	}
	if err := h.checkTargets(); err != nil {
		return err
	}
	return h.checkGroups()
}

// words are the words of egress itself.
func (h *Handler) words(d *caddyfile.Dispenser, matchers matcherToken) map[string]func() error {
	groups := make(map[string]bool)
	return map[string]func() error{
		"name":                  func() error { return h.unmarshalName(d) },
		"server_name":           func() error { return words.Checked(d, &h.ServerName, checkServerName) },
		"hosts":                 func() error { return words.Parsed(d, &h.Hosts, parseHost) },
		"basic_auth":            func() error { return h.unmarshalBasicAuth(d) },
		"realm":                 func() error { return words.Checked(d, &h.auth().Realm, checkRealm) },
		"session_from":          func() error { return h.unmarshalSession(d) },
		"allow_unauthenticated": func() error { return h.unmarshalUnauthenticated(d) },
		"ports":                 func() error { return h.unmarshalPorts(d) },
		"acl":                   func() error { return h.unmarshalACL(d) },
		"admin_address":         func() error { return h.unmarshalAdminAddress(d) },
		"destination_circuit":   func() error { return h.unmarshalCircuit(d) },
		"route":                 func() error { return h.unmarshalRoute(d, matchers) },
		"upstream":              func() error { return h.group(defaultGroup).UnmarshalUpstream(d, grammarBlocks) },
		"upstreams":             func() error { return h.unmarshalGroup(d, groups) },
		"transport":             func() error { return h.unmarshalTransport(d) },
		"tunnel":                func() error { return h.unmarshalTunnel(d) },
		"forwarded":             func() error { return words.OneOf(d, &h.Forwarded, "off", "for", "full") },
		"hide_ip":               func() error { return words.Flag(d, &h.HideIP) },
		"hide_via":              func() error { return words.Flag(d, &h.HideVia) },
		"hide_trace":            func() error { return words.Flag(d, &h.HideTrace) },
		"metrics_users":         func() error { return h.unmarshalMetricsUsers(d) },
	}
}

// group returns the group of the given name, which is made where it is missing.
func (h *Handler) group(name string) *upstreams.Group {
	if h.Groups == nil {
		h.Groups = make(map[string]*upstreams.Group)
	}
	g := h.Groups[name]
	if g == nil {
		g = new(upstreams.Group)
		h.Groups[name] = g
	}
	return g
}

// unmarshalGroup reads a block `upstreams <group> { … }`. seen are the groups
// that have had one.
func (h *Handler) unmarshalGroup(d *caddyfile.Dispenser, seen map[string]bool) error {
	_, name, err := words.One(d)
	if err != nil {
		return err
	}
	if err := checkGroupName(name); err != nil {
		return d.Errf("upstreams: %v", err)
	}
	if seen[name] {
		return d.Errf("the group '%s' stands twice", name)
	}
	seen[name] = true
	return h.group(name).Unmarshal(d, grammarBlocks)
}

func (h *Handler) unmarshalName(d *caddyfile.Dispenser) error {
	if err := words.Text(d, &h.Name); err != nil {
		return err
	}
	if !plaintext.IsName(h.Name) {
		return d.Errf("bad name '%s': 1 to 64 letters, digits, '-', '_' and '.'", plaintext.Printable(h.Name))
	}
	return nil
}

func (h *Handler) unmarshalPorts(d *caddyfile.Dispenser) error {
	var args []string
	if err := words.Strings(d, &args); err != nil {
		return err
	}
	for _, arg := range args {
		p, err := acl.ParsePortRange(arg)
		if err != nil {
			return d.Errf("ports: %v", err)
		}
		h.AllowedPorts = append(h.AllowedPorts, p)
	}
	return nil
}

func (h *Handler) unmarshalACL(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': acl takes a block", d.Val())
	}
	return block(d, "acl", h.aclWords(d), "allow", "deny", "allow_file", "deny_file")
}

func (h *Handler) aclWords(d *caddyfile.Dispenser) map[string]func() error {
	rule := func(allow bool) func() error {
		return func() error {
			r := ACLRule{Allow: allow}
			if err := words.Strings(d, &r.Subjects); err != nil {
				return err
			}
			for _, s := range r.Subjects {
				if err := acl.CheckSubject(s); err != nil && !words.HasPlaceholder(s) {
					return d.Errf("acl: subject '%s': %v", plaintext.Printable(s), err)
				}
			}
			h.ACL = append(h.ACL, r)
			return nil
		}
	}
	file := func(allow bool) func() error {
		return func() error {
			word, path, err := words.One(d)
			if err != nil {
				return err
			}
			if path == "" {
				return d.Errf("%s wants a path", word)
			}
			h.ACL = append(h.ACL, ACLRule{Files: []string{path}, Allow: allow})
			return nil
		}
	}
	return map[string]func() error{
		"allow":      rule(true),
		"deny":       rule(false),
		"allow_file": file(true),
		"deny_file":  file(false),
		"resolve":    func() error { return words.Flag(d, &h.ResolveNames) },
	}
}

func (h *Handler) unmarshalAdminAddress(d *caddyfile.Dispenser) error {
	before := len(h.AdminAddresses)
	if err := words.Strings(d, &h.AdminAddresses); err != nil {
		return err
	}
	for _, a := range h.AdminAddresses[before:] {
		if _, err := self.ParseHostPort(a); err != nil && !words.HasPlaceholder(a) {
			return d.Errf("bad admin_address '%s': %v", a, err)
		}
	}
	return nil
}

func (h *Handler) unmarshalCircuit(d *caddyfile.Dispenser) error {
	c := new(DestinationCircuit)
	h.DestinationCircuit = c
	if d.NextArg() {
		if d.Val() != "off" {
			return d.Errf("unexpected argument '%s': destination_circuit takes a block, or off", d.Val())
		}
		c.Off = true
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
	at := *d
	if err := block(d, "destination_circuit", c.words(d)); err != nil {
		return err
	}
	settled := c.withDefaults()
	return words.At(&at, settled.validate())
}

// circuitOff is why words of the circuit cannot be off.
const circuitOff = "write destination_circuit off for no circuits"

func (c *DestinationCircuit) words(d *caddyfile.Dispenser) map[string]func() error {
	return map[string]func() error{
		"failures":     func() error { return words.AtLeast(d, &c.Failures, leastFailures, circuitOff) },
		"window":       func() error { return words.Duration(d, &c.Window, circuitOff) },
		"open_for":     func() error { return words.Duration(d, &c.OpenFor, circuitOff) },
		"max_open_for": func() error { return words.Duration(d, &c.MaxOpenFor, circuitOff) },
	}
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
