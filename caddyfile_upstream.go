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
	words := map[string]func() error{
		"weight":               func() error { return count(d, &u.Weight, "") },
		"priority":             func() error { return number(d, &u.Priority, 0, 1_000_000) },
		"max_conns":            func() error { return count(d, &u.MaxConns, "off") },
		"max_pending":          func() error { return count(d, &u.MaxPending, "off") },
		"max_tunnels":          func() error { return count(d, &u.MaxTunnels, "off") },
		"max_tunnels_per_conn": func() error { return count(d, &u.MaxTunnelsPerConn, "") },
		"standby":              func() error { return count(d, &u.Standby, "") },
		"credentials":          func() error { return credentials(d, &u.Credentials) },
		"proxy_protocol":       func() error { return oneOf(d, &u.ProxyProtocol, "v1", "v2") },
		"prefer_ip":            func() error { return oneOf(d, &u.PreferIP, "4", "6", "4_only", "6_only") },
		"header":               func() error { return headerField(d, &u.Header) },
	}
	addSourceWords(d, &u.LocalAddresses, &u.LocalAddressPick, &u.Interface, words)
	addUpstreamTLSWords(d, &u.TLS, words)
	return block(d, "upstream", words, "header")
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
	_, err := parseUpstreamURL(s, "")
	return err
}

// addUpstreamTLSWords adds the words for TLS towards upstreams.
func addUpstreamTLSWords(d *caddyfile.Dispenser, to **reverseproxy.TLSConfig, words map[string]func() error) {
	addTLSWords(d, to, words)
	words["tls_server_name"] = func() error {
		if *to == nil {
			*to = new(reverseproxy.TLSConfig)
		}
		return str(d, &(*to).ServerName)
	}
}

// unmarshalGroup reads a block `upstreams <group> { … }`. seen are the groups
// that have had one.
func (h *Handler) unmarshalGroup(d *caddyfile.Dispenser, seen map[string]bool) error {
	_, name, err := one(d)
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
	words := map[string]func() error{
		"upstream":    func() error { return g.unmarshalUpstream(d) },
		"file":        func() error { return str(d, &g.File) },
		"dynamic":     func() error { return g.unmarshalDynamic(d) },
		"scheme":      func() error { return oneOf(d, &g.Scheme, upstreamSchemes...) },
		"credentials": func() error { return credentials(d, &g.Credentials) },
		"slow_start":  func() error { return duration(d, &g.SlowStart, "off") },
		"circuit":     func() error { return g.unmarshalCircuit(d) },
	}
	addUpstreamTLSWords(d, &g.TLS, words)
	g.addBalancingWords(d, words)
	g.addHealthWords(d, words)
	return block(d, "upstreams", words, "upstream", "health_headers")
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

func (g *UpstreamGroup) addBalancingWords(d *caddyfile.Dispenser, words map[string]func() error) {
	lb := func() *LoadBalancing {
		if g.LoadBalancing == nil {
			g.LoadBalancing = new(LoadBalancing)
		}
		return g.LoadBalancing
	}
	words["lb_policy"] = func() (err error) {
		lb().SelectionPolicyRaw, err = unmarshalPolicy(d)
		return err
	}
	words["lb_retries"] = func() error { return count(d, &lb().Retries, "off") }
	words["lb_try_duration"] = func() error { return duration(d, &lb().TryDuration, "") }
	words["lb_try_interval"] = func() error {
		var pause *caddy.Duration
		if err := delay(d, &pause); err != nil {
			return err
		}
		lb().TryInterval = *pause
		return nil
	}
	words["attempt_timeout"] = func() error { return duration(d, &lb().AttemptTimeout, "") }
	words["retry_budget"] = func() error { return fraction(d, &lb().RetryBudget) }
	words["hedge"] = func() error {
		lb().Hedge = 0.95
		if !d.NextArg() {
			return nil
		}
		d.Prev()
		var quantile *float64
		if err := fraction(d, &quantile); err != nil {
			return err
		}
		if lb().Hedge = *quantile; *quantile <= 0.5 || *quantile >= 1 {
			return d.Errf("bad hedge '%s': must be above 50%% and below 100%%", d.Val())
		}
		return nil
	}
}

func (g *UpstreamGroup) addHealthWords(d *caddyfile.Dispenser, words map[string]func() error) {
	active := func() *ActiveHealthChecks {
		if g.HealthChecks == nil {
			g.HealthChecks = &HealthChecks{Active: new(ActiveHealthChecks)}
		}
		return g.HealthChecks.Active
	}
	words["health_check"] = func() error {
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
	words["health_interval"] = func() error { return duration(d, &active().Interval, "") }
	words["health_timeout"] = func() error { return duration(d, &active().Timeout, "") }
	words["health_passes"] = func() error { return count(d, &active().Passes, "") }
	words["health_fails"] = func() error { return count(d, &active().Fails, "") }
	words["health_status"] = func() error { return status(d, &active().ExpectStatus) }
	words["health_body"] = func() error { return str(d, &active().ExpectBody) }
	words["health_headers"] = func() error {
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
	return block(d, "circuit", map[string]func() error{
		"consecutive_failures": func() error { return count(d, &c.ConsecutiveFailures, "") },
		"min_success_rate":     func() error { return fraction(d, &c.MinSuccessRate) },
		"window":               func() error { return duration(d, &c.Window, "") },
		"min_samples":          func() error { return count(d, &c.MinSamples, "") },
		"open_for":             func() error { return duration(d, &c.OpenFor, "") },
		"max_open_for":         func() error { return duration(d, &c.MaxOpenFor, "") },
		"max_ejected":          func() error { return fraction(d, &c.MaxEjected) },
		"panic_below":          func() error { return fraction(d, &c.PanicBelow) },
	})
}
