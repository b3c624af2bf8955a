package upstreams

import (
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the words of the Caddyfile for upstreams and their groups.

// Why words of an upstream or a group cannot be off.
const (
	checksOff = "write health_check off for no checks"
	nobodyOut = "write circuit { max_ejected 0% } to leave all upstreams in rotation"
)

// UnmarshalUpstream reads the word upstream into the group.
func (g *Group) UnmarshalUpstream(d *caddyfile.Dispenser, in words.Grammar) error {
	at := *d
	u := &Upstream{at: &at}
	if !d.NextArg() {
		return d.Err("upstream wants a URL")
	}
	u.URL = d.Val()
	if err := ValidURL(u.URL); err != nil {
		return d.Errf("upstream: %v", err)
	}
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': upstream takes one URL", plaintext.Escaped(d.Val()))
	}
	g.Upstreams = append(g.Upstreams, u)
	return in.Block(d, "upstream", u.words(d, in), "header")
}

func (u *Upstream) words(d *caddyfile.Dispenser, in words.Grammar) map[string]func() error {
	parse := map[string]func() error{
		"weight":      func() error { return words.Number(d, &u.Weight, 1, upstream.MaxWeight, "leave the upstream out") },
		"priority":    func() error { return words.Number(d, &u.Priority, 0, 1_000_000, "0 is the first") },
		"max_conns":   func() error { return words.Count(d, &u.MaxConns, "off") },
		"max_pending": func() error { return words.Count(d, &u.MaxPending, "off") },
		"max_tunnels": func() error { return words.Count(d, &u.MaxTunnels, "off") },
		"max_tunnels_per_conn": func() error {
			return words.Count(d, &u.MaxTunnelsPerConn, "write a high number; the limit of the upstream is kept as well")
		},
		"standby":        func() error { return noneIfOff(d, &u.Standby, maxStandby) },
		"credentials":    func() error { return credentials(d, &u.Credentials) },
		"proxy_protocol": func() error { return proxyProtocol(d, &u.ProxyProtocol) },
		"header":         func() error { return words.HeaderField(d, &u.Header, checkField) },
	}
	reach.SourceWords(d, in, reach.Source{
		Addresses: &u.LocalAddresses, Pick: &u.LocalAddressPick, Device: &u.Interface, Preference: &u.PreferIP,
	}, parse)
	addUpstreamTLSWords(d, &u.TLS, parse)
	return parse
}

// ValidURL checks a URL of the Caddyfile, as far as its placeholders let
// it be seen.
func ValidURL(s string) error {
	if s == "" {
		return errors.New("the URL is empty")
	}
	if strings.Contains(s, "{") {
		return nil
	}
	addr, err := upstream.ParseURL(s, "")
	if err != nil {
		return err
	}
	if login := urlLogin(addr); login != nil {
		return login.check()
	}
	return nil
}

// addUpstreamTLSWords adds the words for TLS towards upstreams.
func addUpstreamTLSWords(d *caddyfile.Dispenser, to **reverseproxy.TLSConfig, parse map[string]func() error) {
	reach.TLSWords(d, to, parse)
	parse["tls_server_name"] = func() error {
		if *to == nil {
			*to = new(reverseproxy.TLSConfig)
		}
		return words.Text(d, &(*to).ServerName)
	}
}

// Unmarshal reads the block of the group, which opens at d.
func (g *Group) Unmarshal(d *caddyfile.Dispenser, in words.Grammar) error {
	at := *d
	g.at = &at
	return in.Block(d, "upstreams", g.words(d, in), "upstream", "health_headers")
}

func (g *Group) words(d *caddyfile.Dispenser, in words.Grammar) map[string]func() error {
	parse := map[string]func() error{
		"upstream":    func() error { return g.UnmarshalUpstream(d, in) },
		"file":        func() error { return words.Text(d, &g.File) },
		"dynamic":     func() error { return g.unmarshalDynamic(d) },
		"scheme":      func() error { return words.OneOf(d, &g.Scheme, upstream.Schemes...) },
		"credentials": func() error { return credentials(d, &g.Credentials) },
		"slow_start":  func() error { return words.Duration(d, &g.SlowStart, "off") },
		"circuit":     func() error { return g.unmarshalCircuit(d, in) },
	}
	addUpstreamTLSWords(d, &g.TLS, parse)
	g.addBalancingWords(d, parse)
	g.addHealthWords(d, parse)
	return parse
}

func (g *Group) unmarshalDynamic(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	if err := words.Module(d, "http.reverse_proxy.upstreams", "source of upstreams"); err != nil {
		return err
	}
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

func (g *Group) addBalancingWords(d *caddyfile.Dispenser, parse map[string]func() error) {
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
	parse["lb_retries"] = func() error { return words.Number(d, &lb().Retries, 1, maxRetries, "off") }
	parse["lb_try_duration"] = func() error { return words.Duration(d, &lb().TryDuration, "write lb_retries off for one attempt only") }
	parse["lb_try_interval"] = func() error {
		var pause *caddy.Duration
		if err := words.Delay(d, &pause); err != nil {
			return err
		}
		lb().TryInterval = *pause
		return nil
	}
	parse["attempt_timeout"] = func() error { return words.Duration(d, &lb().AttemptTimeout, words.UntilAnswered) }
	parse["retry_budget"] = func() error { return words.Fraction(d, &lb().RetryBudget, "off") }
	parse["hedge"] = func() error {
		lb().Hedge = 0.95
		if !d.NextArg() {
			return nil
		}
		d.Prev()
		var quantile *float64
		if err := words.Fraction(d, &quantile, "off"); err != nil {
			return err
		}
		if lb().Hedge = *quantile; d.Val() != "off" && (*quantile <= 0.5 || *quantile >= 1) {
			return d.Errf("bad hedge '%s': must be above 50%% and below 100%%, or off", d.Val())
		}
		return nil
	}
}

func (g *Group) unmarshalCircuit(d *caddyfile.Dispenser, in words.Grammar) error {
	if d.NextArg() {
		if d.Val() == "off" {
			return d.Errf("circuit cannot be off: %s", nobodyOut)
		}
		return d.Errf("unexpected argument '%s': circuit takes a block", plaintext.Escaped(d.Val()))
	}
	c := new(Circuit)
	g.Circuit = c
	at := *d
	if err := in.Block(d, "circuit", c.words(d)); err != nil {
		return err
	}
	settled := c.withDefaults()
	return words.At(&at, settled.validate())
}

func (c *Circuit) words(d *caddyfile.Dispenser) map[string]func() error {
	return map[string]func() error{
		"consecutive_failures": func() error { return words.Count(d, &c.ConsecutiveFailures, nobodyOut) },
		"min_success_rate":     func() error { return words.Fraction(d, &c.MinSuccessRate, "off") },
		"window":               func() error { return words.DurationFrom(d, &c.Window, health.MinWindow, nobodyOut) },
		"min_samples":          func() error { return words.Count(d, &c.MinSamples, nobodyOut) },
		"open_for":             func() error { return words.Duration(d, &c.OpenFor, nobodyOut) },
		"max_open_for":         func() error { return words.Duration(d, &c.MaxOpenFor, nobodyOut) },
		"max_ejected": func() error {
			return words.Fraction(d, &c.MaxEjected, "write 100% for no limit, or 0% to leave all upstreams in rotation")
		},
		"panic_below": func() error { return words.Fraction(d, &c.PanicBelow, "off") },
	}
}

// noneIfOff reads a number from 1 to high, or the word off for 0.
func noneIfOff(d *caddyfile.Dispenser, to *int, high int) error {
	err := words.Number(d, to, 1, high, "off")
	*to = max(*to, 0)
	return err
}

func proxyProtocol(d *caddyfile.Dispenser, to *string) error {
	err := words.OneOf(d, to, "v1", "v2", "off")
	if *to == "off" {
		*to = ""
	}
	return err
}

// credentials reads a user and a password.
func credentials(d *caddyfile.Dispenser, to **Credentials) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Errf("%s wants a user and a password, got %d arguments", word, len(args))
	}
	c := &Credentials{Username: args[0], Password: args[1]}
	if err := c.check(); err != nil && !words.HasPlaceholder(c.Username) && !words.HasPlaceholder(c.Password) {
		return d.Errf("%s of '%s': %v", word, plaintext.Escaped(c.Username), err)
	}
	*to = c
	return nil
}

// Openings are the blocks of these words.
func Openings() []words.Opening {
	return []words.Opening{
		{Text: "upstreams <group>", Words: new(Group).words(nil, nil)},
		{Text: "upstream <url>", Words: new(Upstream).words(nil, nil)},
		{Text: "circuit", Words: new(Circuit).words(nil)},
	}
}
