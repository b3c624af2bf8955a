package egress

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the words of the block `transport`, and those about TLS and
// addresses that it shares with upstreams and routes.

func (h *Handler) unmarshalTransport(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': transport takes a block", d.Val())
	}
	t := new(Transport)
	h.Transport = t
	parse := map[string]func() error{
		"dial_timeout":            func() error { return words.Duration(d, &t.DialTimeout, "") },
		"dial_fallback_delay":     func() error { return words.Duration(d, &t.FallbackDelay, "") },
		"response_header_timeout": func() error { return words.Duration(d, &t.ResponseHeaderTimeout, "") },
		"expect_continue_timeout": func() error { return words.Duration(d, &t.ExpectContinueTimeout, "") },
		"max_conn_lifetime":       func() error { return words.Duration(d, &t.MaxConnLifetime, "off") },
		"pending_timeout":         func() error { return words.Duration(d, &t.PendingTimeout, "") },
		"max_conns":               func() error { return words.Count(d, &t.MaxConns, "off") },
		"max_conns_per_host":      func() error { return words.Count(d, &t.MaxConnsPerHost, "off") },
		"max_per_client":          func() error { return words.Count(d, &t.MaxPerClient, "off") },
		"max_per_user":            func() error { return words.Count(d, &t.MaxPerUser, "off") },
		"reuse_unsafe":            func() error { return words.OneOf(d, &t.ReuseUnsafe, reusePolicies...) },
		"max_pending":             func() error { return words.Count(d, &t.MaxPending, "off") },
		"max_pending_per_host":    func() error { return words.Count(d, &t.MaxPendingPerHost, "off") },
		"max_response_header":     func() error { return words.Size(d, &t.MaxResponseHeader) },
	}
	t.addKeepAliveWords(d, parse)
	addTLSWords(d, &t.TLS, parse)
	t.addNameWords(d, parse)
	return words.Block(d, "transport", parse, "hosts_override")
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
	parse["keepalive_idle_conns"] = func() error { return words.Count(d, &keepAlive().MaxIdleConns, "") }
	parse["keepalive_idle_conns_per_host"] = func() error { return words.Count(d, &keepAlive().MaxIdleConnsPerHost, "") }
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
	parse["tls_timeout"] = func() error { return words.Duration(d, &tls().HandshakeTimeout, "") }
	parse["tls_insecure_skip_verify"] = func() error { return words.Flag(d, &tls().InsecureSkipVerify) }
	parse["tls_curves"] = func() error { return words.ReplaceStrings(d, &tls().Curves) }
	parse["tls_client_auth"] = func() error {
		switch args := d.RemainingArgs(); len(args) {
		case 1:
			tls().ClientCertificateAutomate = args[0]
		case 2:
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
		return words.Block(d, "resolvers", parse)
	}
	parse["hosts_override"] = func() error {
		args := d.RemainingArgs()
		if len(args) < 2 {
			return d.Errf("hosts_override wants a name and at least one IP address, got %d arguments", len(args))
		}
		if t.HostsOverride == nil {
			t.HostsOverride = make(map[string][]string)
		}
		if _, ok := t.HostsOverride[args[0]]; ok {
			return d.Errf("hosts_override names '%s' twice", args[0])
		}
		for _, a := range args[1:] {
			if _, err := dial.ParseAddress(a); err != nil && !words.HasPlaceholder(a) {
				return d.Errf("bad hosts_override '%s': %v", plaintext.Printable(a), err)
			}
		}
		t.HostsOverride[args[0]] = args[1:]
		return nil
	}
	parse["prefer_ip"] = func() error { return words.OneOf(d, &t.PreferIP, "4", "6", "4_only", "6_only") }
	addSourceWords(d, &t.LocalAddresses, &t.LocalAddressPick, &t.Interface, parse)
}

// addSourceWords adds the words about where connections leave from.
func addSourceWords(d *caddyfile.Dispenser, addresses *[]string, pick, device *string, parse map[string]func() error) {
	parse["local_address"] = func() error { return localAddresses(d, addresses, pick) }
	parse["interface"] = func() error { return words.Text(d, device) }
}

func localAddresses(d *caddyfile.Dispenser, addresses *[]string, pick *string) error {
	if err := words.Parsed(d, addresses, dial.ParseAddress); err != nil {
		return err
	}
	return words.Block(d, "local_address", map[string]func() error{
		"pick": func() error { return words.OneOf(d, pick, dial.PickRoundRobin, dial.PickUserHash) },
	})
}
