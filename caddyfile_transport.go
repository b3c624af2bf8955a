package egress

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the words of the blocks `transport` and `tunnel`, see internal/reach for
// those about TLS and addresses.

// keepNone is why words about idle connections cannot be off.
const keepNone = "write keepalive off to keep no connection"

func (h *Handler) unmarshalTransport(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': transport takes a block", d.Val())
	}
	t := new(Transport)
	h.Transport = t
	return block(d, "transport", t.words(d), "hosts_override")
}

func (t *Transport) words(d *caddyfile.Dispenser) map[string]func() error {
	parse := map[string]func() error{
		"dial_timeout": func() error { return words.Duration(d, &t.DialTimeout, words.UntilAnswered) },
		"dial_fallback_delay": func() error {
			return words.Duration(d, &t.FallbackDelay, "write a long one to try the addresses of a name one after the other")
		},
		"response_header_timeout": func() error { return words.Duration(d, &t.ResponseHeaderTimeout, words.UntilAnswered) },
		"expect_continue_timeout": func() error { return words.Duration(d, &t.ExpectContinueTimeout, words.UntilAnswered) },
		"response_idle_timeout":   func() error { return words.Duration(d, &t.ResponseIdleTimeout, "off") },
		"max_conn_lifetime":       func() error { return words.Duration(d, &t.MaxConnLifetime, "off") },
		"pending_timeout": func() error {
			return words.Duration(d, &t.PendingTimeout, "write max_pending off to let no request wait")
		},
		"max_conns":            func() error { return words.Count(d, &t.MaxConns, "off") },
		"max_conns_per_host":   func() error { return words.Count(d, &t.MaxConnsPerHost, "off") },
		"max_per_client":       func() error { return words.Count(d, &t.MaxPerClient, "off") },
		"max_per_user":         func() error { return words.Count(d, &t.MaxPerUser, "off") },
		"reuse_unsafe":         func() error { return words.OneOf(d, &t.ReuseUnsafe, reusePolicies...) },
		"max_pending":          func() error { return words.Count(d, &t.MaxPending, "off") },
		"max_pending_per_host": func() error { return words.Count(d, &t.MaxPendingPerHost, "off") },
		"max_response_header": func() error {
			return words.Size(d, &t.MaxResponseHeader, leastHead, mostHead, "origins could fill the memory")
		},
	}
	t.addKeepAliveWords(d, parse)
	reach.TLSWords(d, &t.TLS, parse)
	t.addNameWords(d, parse)
	return parse
}

func (t *Transport) addKeepAliveWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	keepAlive := func() *KeepAlive {
		if t.KeepAlive == nil {
			t.KeepAlive = new(KeepAlive)
		}
		return t.KeepAlive
	}
	parse["keepalive"] = func() error {
		k := keepAlive()
		if err := words.Duration(d, &k.IdleConnTimeout, "off"); err != nil {
			return err
		}
		if k.IdleConnTimeout == words.NoLimit {
			k.IdleConnTimeout, k.Enabled = 0, new(bool)
		}
		return nil
	}
	parse["keepalive_idle_conns"] = func() error { return words.Count(d, &keepAlive().MaxIdleConns, keepNone) }
	parse["keepalive_idle_conns_per_host"] = func() error { return words.Count(d, &keepAlive().MaxIdleConnsPerHost, keepNone) }
}

// addNameWords adds the words about names and addresses.
func (t *Transport) addNameWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	parse["resolvers"] = func() error {
		t.Resolver = new(Resolver)
		if err := words.Parsed(d, &t.Resolver.Addresses, dnscache.ParseServer); err != nil {
			return err
		}
		parse := make(map[string]func() error)
		reach.TLSWords(d, &t.Resolver.TLS, parse)
		delete(parse, "tls_timeout") // the time for an answer bounds the handshake
		at := *d
		if err := words.Block(d, "resolvers", parse); err != nil || slices.ContainsFunc(t.Resolver.Addresses, words.HasPlaceholder) {
			return err
		}
		if servers, _ := t.dnsServers(); t.Resolver.TLS != nil && !secured(servers) {
			return at.Errf("resolvers: %v", errUnsecured)
		}
		return nil
	}
	parse["hosts_override"] = func() error {
		args := d.RemainingArgs()
		if len(args) < 2 {
			return d.Errf("hosts_override wants a name and at least one IP address, got %d arguments", len(args))
		}
		if t.HostsOverride == nil {
			t.HostsOverride = make(map[string][]string)
		}
		if err := t.checkOverridden(args[0]); err != nil {
			return d.WrapErr(err)
		}
		for _, a := range args[1:] {
			if _, err := dial.ParseAddress(a); err != nil && !words.HasPlaceholder(a) {
				return d.Errf("bad hosts_override '%s': %v", plaintext.Printable(a), err)
			}
		}
		t.HostsOverride[args[0]] = args[1:]
		return nil
	}
	reach.SourceWords(d, grammarBlocks, reach.Source{
		Addresses: &t.LocalAddresses, Pick: &t.LocalAddressPick, Device: &t.Interface, Preference: &t.PreferIP,
	}, parse)
}

// checkOverridden refuses the name of a hosts_override, as far as placeholders let it be seen.
func (t *Transport) checkOverridden(name string) error {
	host, err := parseOverridden(name)
	if err != nil && !words.HasPlaceholder(name) {
		return fmt.Errorf("hosts_override: %w", err)
	}
	for other := range t.HostsOverride {
		if known, err := parseOverridden(other); other == name || err == nil && known == host {
			return fmt.Errorf("hosts_override names '%s' twice", plaintext.Printable(name))
		}
	}
	return nil
}

func (h *Handler) unmarshalTunnel(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': tunnel takes a block", d.Val())
	}
	t := new(Tunnel)
	h.Tunnel = t
	return block(d, "tunnel", t.words(d))
}

func (t *Tunnel) words(d *caddyfile.Dispenser) map[string]func() error {
	return map[string]func() error{
		"idle_timeout":       func() error { return words.Duration(d, &t.IdleTimeout, "off") },
		"timeout":            func() error { return words.Duration(d, &t.Timeout, "off") },
		"half_close_timeout": func() error { return words.Duration(d, &t.HalfCloseTimeout, "off") },
		"max_tunnels":        func() error { return words.Count(d, &t.MaxTunnels, "off") },
		"max_per_client":     func() error { return words.Count(d, &t.MaxPerClient, "off") },
		"max_per_user":       func() error { return words.Count(d, &t.MaxPerUser, "off") },
		"rate_per_tunnel":    func() error { return words.ByteRate(d, &t.RatePerTunnel) },
		"rate_per_user":      func() error { return words.ByteRate(d, &t.RatePerUser) },
		"close_delay":        func() error { return words.Delay(d, &t.CloseDelay) },
		"on_policy_change":   func() error { return words.OneOf(d, &t.OnPolicyChange, policyKeep, policyClose) },
	}
}
