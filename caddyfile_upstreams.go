package egress

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the words of the Caddyfile for upstreams and their groups.

// group returns the group of the given name, which is made where it is missing.
func (h *Handler) group(name string) *UpstreamGroup {
	if h.Groups == nil {
		h.Groups = make(map[string]*UpstreamGroup)
	}
	g := h.Groups[name]
	if g == nil {
		g = new(UpstreamGroup)
		h.Groups[name] = g
	}
	return g
}

// unmarshalUpstream reads an upstream into a group.
func (g *UpstreamGroup) unmarshalUpstream(d *caddyfile.Dispenser) error {
	u := new(Upstream)
	if !d.NextArg() {
		return d.Err("upstream wants a URL")
	}
	u.URL = d.Val()
	if err := validUpstreamURL(u.URL); err != nil {
		return d.Errf("upstream: %v", err)
	}
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': upstream takes one URL", plaintext.Escaped(d.Val()))
	}
	g.add(u)
	parse := map[string]func() error{
		"weight":               func() error { return words.Count(d, &u.Weight, "") },
		"priority":             func() error { return words.Number(d, &u.Priority, 0, 1_000_000) },
		"max_conns":            func() error { return words.Count(d, &u.MaxConns, "off") },
		"max_pending":          func() error { return words.Count(d, &u.MaxPending, "off") },
		"max_tunnels":          func() error { return words.Count(d, &u.MaxTunnels, "off") },
		"max_tunnels_per_conn": func() error { return words.Count(d, &u.MaxTunnelsPerConn, "") },
		"standby":              func() error { return words.Count(d, &u.Standby, "") },
		"credentials":          func() error { return credentials(d, &u.Credentials) },
		"proxy_protocol":       func() error { return words.OneOf(d, &u.ProxyProtocol, "v1", "v2") },
		"prefer_ip":            func() error { return words.OneOf(d, &u.PreferIP, "4", "6", "4_only", "6_only") },
		"header":               func() error { return words.HeaderField(d, &u.Header) },
	}
	addSourceWords(d, &u.LocalAddresses, &u.LocalAddressPick, &u.Interface, parse)
	addUpstreamTLSWords(d, &u.TLS, parse)
	return words.Block(d, "upstream", parse, "header")
}

// validUpstreamURL checks a URL of the Caddyfile, as far as its placeholders let
// it be seen.
func validUpstreamURL(s string) error {
	if s == "" {
		return errors.New("the URL is empty")
	}
	if strings.Contains(s, "{") {
		return nil
	}
	_, err := upstream.ParseURL(s, "")
	return err
}

// addUpstreamTLSWords adds the words for TLS towards upstreams.
func addUpstreamTLSWords(d *caddyfile.Dispenser, to **reverseproxy.TLSConfig, parse map[string]func() error) {
	addTLSWords(d, to, parse)
	parse["tls_server_name"] = func() error {
		if *to == nil {
			*to = new(reverseproxy.TLSConfig)
		}
		return words.Text(d, &(*to).ServerName)
	}
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
	return h.group(name).unmarshal(d)
}

func (g *UpstreamGroup) unmarshal(d *caddyfile.Dispenser) error {
	parse := map[string]func() error{
		"upstream":    func() error { return g.unmarshalUpstream(d) },
		"file":        func() error { return words.Text(d, &g.File) },
		"dynamic":     func() error { return g.unmarshalDynamic(d) },
		"scheme":      func() error { return words.OneOf(d, &g.Scheme, upstream.Schemes...) },
		"credentials": func() error { return credentials(d, &g.Credentials) },
		"slow_start":  func() error { return words.Duration(d, &g.SlowStart, "off") },
		"circuit":     func() error { return g.unmarshalCircuit(d) },
	}
	addUpstreamTLSWords(d, &g.TLS, parse)
	g.addBalancingWords(d, parse)
	g.addHealthWords(d, parse)
	return words.Block(d, "upstreams", parse, "upstream", "health_headers")
}

func (g *UpstreamGroup) unmarshalDynamic(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.upstreams."+name)
	if err != nil {
		return err
	}
	source, ok := module.(reverseproxy.UpstreamSource)
	if !ok {
		return d.Errf("dynamic: module '%s' is no source of upstreams", name)
	}
	g.DynamicRaw = caddyconfig.JSONModuleObject(source, "source", name, nil)
	return nil
}

func (g *UpstreamGroup) addBalancingWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	lb := func() *LoadBalancing {
		if g.LoadBalancing == nil {
			g.LoadBalancing = new(LoadBalancing)
		}
		return g.LoadBalancing
	}
	parse["lb_policy"] = func() (err error) {
		lb().SelectionPolicyRaw, err = selection.Unmarshal(d)
		return err
	}
	parse["lb_retries"] = func() error { return words.Count(d, &lb().Retries, "off") }
	parse["lb_try_duration"] = func() error { return words.Duration(d, &lb().TryDuration, "") }
	parse["lb_try_interval"] = func() error {
		var pause *caddy.Duration
		if err := words.Delay(d, &pause); err != nil {
			return err
		}
		lb().TryInterval = *pause
		return nil
	}
	parse["attempt_timeout"] = func() error { return words.Duration(d, &lb().AttemptTimeout, "") }
	parse["retry_budget"] = func() error { return words.Fraction(d, &lb().RetryBudget) }
	parse["hedge"] = func() error {
		lb().Hedge = 0.95
		if !d.NextArg() {
			return nil
		}
		d.Prev()
		var quantile *float64
		if err := words.Fraction(d, &quantile); err != nil {
			return err
		}
		if lb().Hedge = *quantile; *quantile <= 0.5 || *quantile >= 1 {
			return d.Errf("bad hedge '%s': must be above 50%% and below 100%%", d.Val())
		}
		return nil
	}
}

func (g *UpstreamGroup) addHealthWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	active := func() *ActiveHealthChecks {
		if g.HealthChecks == nil {
			g.HealthChecks = &HealthChecks{Active: new(ActiveHealthChecks)}
		}
		return g.HealthChecks.Active
	}
	parse["health_check"] = func() error {
		c := active()
		if !d.NextArg() {
			return d.ArgErr()
		}
		if c.Type = d.Val(); !slices.Contains(checkTypes, c.Type) {
			return d.Errf("bad health_check '%s': one of %v", plaintext.Escaped(c.Type), checkTypes)
		}
		for _, t := range d.RemainingArgs() {
			if !strings.Contains(t, "{") {
				if err := validCheckTarget(c.Type, t); err != nil {
					return d.Errf("health_check: target '%s': %v", plaintext.Escaped(t), err)
				}
			}
			c.Targets = append(c.Targets, t)
		}
		return nil
	}
	parse["health_interval"] = func() error { return words.Duration(d, &active().Interval, "") }
	parse["health_timeout"] = func() error { return words.Duration(d, &active().Timeout, "") }
	parse["health_passes"] = func() error { return words.Count(d, &active().Passes, "") }
	parse["health_fails"] = func() error { return words.Count(d, &active().Fails, "") }
	parse["health_status"] = func() error { return words.Status(d, &active().ExpectStatus) }
	parse["health_body"] = func() error { return words.Text(d, &active().ExpectBody) }
	parse["health_headers"] = func() error {
		if d.NextArg() {
			return d.Errf("unexpected argument '%s': health_headers takes a block", plaintext.Escaped(d.Val()))
		}
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			name, values := d.Val(), d.RemainingArgs()
			if len(values) == 0 {
				return d.Errf("health_headers: %s has no value", plaintext.Escaped(name))
			}
			if active().Headers == nil {
				active().Headers = make(http.Header)
			}
			for _, v := range values {
				active().Headers.Add(name, v)
			}
		}
		return nil
	}
}

func (g *UpstreamGroup) unmarshalCircuit(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': circuit takes a block", plaintext.Escaped(d.Val()))
	}
	c := new(UpstreamCircuit)
	g.Circuit = c
	return words.Block(d, "circuit", map[string]func() error{
		"consecutive_failures": func() error { return words.Count(d, &c.ConsecutiveFailures, "") },
		"min_success_rate":     func() error { return words.Fraction(d, &c.MinSuccessRate) },
		"window":               func() error { return words.Duration(d, &c.Window, "") },
		"min_samples":          func() error { return words.Count(d, &c.MinSamples, "") },
		"open_for":             func() error { return words.Duration(d, &c.OpenFor, "") },
		"max_open_for":         func() error { return words.Duration(d, &c.MaxOpenFor, "") },
		"max_ejected":          func() error { return words.Fraction(d, &c.MaxEjected) },
		"panic_below":          func() error { return words.Fraction(d, &c.PanicBelow) },
	})
}

// credentials reads a user and a password.
func credentials(d *caddyfile.Dispenser, to **Credentials) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("%s wants a user and a password, got %d arguments", word, len(args))
	}
	*to = &Credentials{Username: args[0], Password: args[1]}
	return nil
}
