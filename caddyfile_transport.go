package egress

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the words of the blocks `transport` and `tunnel`, and those about TLS
// and addresses that `transport` shares with upstreams and routes.

// Why words cannot be off.
const (
	untilAnswered = "a peer that is silent would be waited for without an end"
	keepNone      = "write keepalive off to keep no connection"
)

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
		"dial_timeout": func() error { return words.Duration(d, &t.DialTimeout, untilAnswered) },
		"dial_fallback_delay": func() error {
			return words.Duration(d, &t.FallbackDelay, "write a long one to try the addresses of a name one after the other")
		},
		"response_header_timeout": func() error { return words.Duration(d, &t.ResponseHeaderTimeout, untilAnswered) },
		"expect_continue_timeout": func() error { return words.Duration(d, &t.ExpectContinueTimeout, untilAnswered) },
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
	addTLSWords(d, &t.TLS, parse)
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

// addTLSWords adds the words of reverse_proxy's transport that make sense
// towards origins and upstreams alike.
func addTLSWords(d *caddyfile.Dispenser, to **reverseproxy.TLSConfig, parse map[string]func() error) {
	tls := func() *reverseproxy.TLSConfig {
		if *to == nil {
			*to = new(reverseproxy.TLSConfig)
		}
		return *to
	}
	parse["tls_timeout"] = func() error { return words.Duration(d, &tls().HandshakeTimeout, untilAnswered) }
	parse["tls_insecure_skip_verify"] = func() error { return words.Flag(d, &tls().InsecureSkipVerify) }
	parse["tls_curves"] = func() error { return words.Parsed(d, &tls().Curves, parseCurve) }
	parse["tls_client_auth"] = func() error {
		switch args := d.RemainingArgs(); len(args) {
		case 1:
			if args[0] == "" {
				return d.Err("tls_client_auth: the name of the managed certificate is empty")
			}
			tls().ClientCertificateAutomate = args[0]
		case 2:
			if args[0] == "" || args[1] == "" {
				return d.Err("tls_client_auth: the certificate or the key file has no name")
			}
			tls().ClientCertificateFile, tls().ClientCertificateKeyFile = args[0], args[1]
		default:
			return d.Err("tls_client_auth wants a certificate and a key file, or the name of a managed certificate")
		}
		return nil
	}
	parse["tls_trust_pool"] = func() error {
		if !d.NextArg() {
			return d.ArgErr()
		}
		name := d.Val()
		if err := words.Module(d, "tls.ca_pool.source", "tls_trust_pool"); err != nil {
			return err
		}
		module, err := caddyfile.UnmarshalModule(d, "tls.ca_pool.source."+name)
		if err != nil {
			return err
		}
		if _, ok := module.(caddytls.CA); !ok {
			return d.Errf("tls_trust_pool: module '%s' is no source of certificates", name)
		}
		tls().CARaw = caddyconfig.JSONModuleObject(module, "provider", name, nil)
		return nil
	}
}

// parseCurve finds a curve of reverse_proxy's transport.
func parseCurve(name string) (tls.CurveID, error) {
	id, ok := caddytls.SupportedCurves[name]
	if !ok {
		return 0, fmt.Errorf("one of %v", slices.Sorted(maps.Keys(caddytls.SupportedCurves)))
	}
	return id, nil
}

// addNameWords adds the words about names and addresses.
func (t *Transport) addNameWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	parse["resolvers"] = func() error {
		t.Resolver = new(Resolver)
		if err := words.Parsed(d, &t.Resolver.Addresses, dnscache.ParseServer); err != nil {
			return err
		}
		parse := make(map[string]func() error)
		addTLSWords(d, &t.Resolver.TLS, parse)
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
	addSourceWords(d, source{&t.LocalAddresses, &t.LocalAddressPick, &t.Interface, &t.PreferIP}, parse)
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

// source is where connections leave from, and to which addresses.
type source struct {
	addresses                *[]string
	pick, device, preference *string
}

// addSourceWords adds the words about where connections leave from, and to which addresses.
func addSourceWords(d *caddyfile.Dispenser, s source, parse map[string]func() error) {
	parse["local_address"] = func() error { return s.unmarshalAddresses(d) }
	parse["interface"] = func() error { return words.Checked(d, s.device, dial.CheckInterface) }
	parse["prefer_ip"] = func() error {
		if err := words.OneOf(d, s.preference, "4", "6", "4_only", "6_only"); err != nil {
			return err
		}
		return s.check(d, "prefer_ip")
	}
}

// check refuses the addresses, alone or with the preference, as far as placeholders let
// them be seen.
func (s source) check(d *caddyfile.Dispenser, word string) error {
	if slices.ContainsFunc(*s.addresses, words.HasPlaceholder) {
		return nil
	}
	if err := dial.CheckAddresses(*s.addresses, *s.preference); err != nil {
		return d.Errf("%s: %v", word, err)
	}
	return nil
}

func (s source) unmarshalAddresses(d *caddyfile.Dispenser) error {
	if err := words.Parsed(d, s.addresses, dial.ParseAddress); err != nil {
		return err
	}
	if err := s.check(d, "local_address"); err != nil {
		return err
	}
	return block(d, "local_address", pickWords(d, s.pick))
}

func pickWords(d *caddyfile.Dispenser, pick *string) map[string]func() error {
	return map[string]func() error{
		"pick": func() error { return words.OneOf(d, pick, dial.PickRoundRobin, dial.PickUserHash) },
	}
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
