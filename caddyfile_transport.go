package egress

import (
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the words of the block `transport`, and those about TLS and
// addresses that it shares with upstreams and routes.

func (h *Handler) unmarshalTransport(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': transport takes a block", d.Val())
	}
	t := new(Transport)
	h.Transport = t
	words := map[string]func() error{
		"dial_timeout":            func() error { return duration(d, &t.DialTimeout, "") },
		"dial_fallback_delay":     func() error { return duration(d, &t.FallbackDelay, "") },
		"response_header_timeout": func() error { return duration(d, &t.ResponseHeaderTimeout, "") },
		"expect_continue_timeout": func() error { return duration(d, &t.ExpectContinueTimeout, "") },
		"max_conn_lifetime":       func() error { return duration(d, &t.MaxConnLifetime, "off") },
		"pending_timeout":         func() error { return duration(d, &t.PendingTimeout, "") },
		"max_conns":               func() error { return count(d, &t.MaxConns, "off") },
		"max_conns_per_host":      func() error { return count(d, &t.MaxConnsPerHost, "off") },
		"max_per_client":          func() error { return count(d, &t.MaxPerClient, "off") },
		"max_per_user":            func() error { return count(d, &t.MaxPerUser, "off") },
		"reuse_unsafe":            func() error { return oneOf(d, &t.ReuseUnsafe, reusePolicies...) },
		"max_pending":             func() error { return count(d, &t.MaxPending, "off") },
		"max_pending_per_host":    func() error { return count(d, &t.MaxPendingPerHost, "off") },
		"max_response_header":     func() error { return size(d, &t.MaxResponseHeader) },
	}
	t.addKeepAliveWords(d, words)
	addTLSWords(d, &t.TLS, words)
	t.addNameWords(d, words)
	return block(d, "transport", words, "hosts_override")
}

func (t *Transport) addKeepAliveWords(d *caddyfile.Dispenser, words map[string]func() error) {
	keepAlive := func() *KeepAlive {
		if t.KeepAlive == nil {
			t.KeepAlive = new(KeepAlive)
		}
		return t.KeepAlive
	}
	words["keepalive"] = func() error {
		k := keepAlive()
		if err := duration(d, &k.IdleConnTimeout, "off"); err != nil {
			return err
		}
		if k.IdleConnTimeout == noLimit {
			k.IdleConnTimeout, k.Enabled = 0, new(bool)
		}
		return nil
	}
	words["keepalive_idle_conns"] = func() error { return count(d, &keepAlive().MaxIdleConns, "") }
	words["keepalive_idle_conns_per_host"] = func() error { return count(d, &keepAlive().MaxIdleConnsPerHost, "") }
}

// addTLSWords adds the words of reverse_proxy's transport that make sense
// towards origins and upstreams alike.
func addTLSWords(d *caddyfile.Dispenser, to **reverseproxy.TLSConfig, words map[string]func() error) {
	tls := func() *reverseproxy.TLSConfig {
		if *to == nil {
			*to = new(reverseproxy.TLSConfig)
		}
		return *to
	}
	words["tls_timeout"] = func() error { return duration(d, &tls().HandshakeTimeout, "") }
	words["tls_insecure_skip_verify"] = func() error { return flag(d, &tls().InsecureSkipVerify) }
	words["tls_curves"] = func() error { return replaceWords(d, &tls().Curves) }
	words["tls_client_auth"] = func() error {
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
	words["tls_trust_pool"] = func() error {
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
func (t *Transport) addNameWords(d *caddyfile.Dispenser, words map[string]func() error) {
	words["resolvers"] = func() error {
		t.Resolver = new(Resolver)
		if err := parsedWords(d, &t.Resolver.Addresses, dnscache.ParseServer); err != nil {
			return err
		}
		words := make(map[string]func() error)
		addTLSWords(d, &t.Resolver.TLS, words)
		delete(words, "tls_timeout") // the time for an answer bounds the handshake
		return block(d, "resolvers", words)
	}
	words["hosts_override"] = func() error {
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
			if _, err := parseAddress(a); err != nil && !hasPlaceholder(a) {
				return d.Errf("bad hosts_override '%s': %v", plaintext.Printable(a), err)
			}
		}
		t.HostsOverride[args[0]] = args[1:]
		return nil
	}
	words["prefer_ip"] = func() error { return oneOf(d, &t.PreferIP, "4", "6", "4_only", "6_only") }
	addSourceWords(d, &t.LocalAddresses, &t.LocalAddressPick, &t.Interface, words)
}

// addSourceWords adds the words about where connections leave from.
func addSourceWords(d *caddyfile.Dispenser, addresses *[]string, pick, device *string, words map[string]func() error) {
	words["local_address"] = func() error { return localAddresses(d, addresses, pick) }
	words["interface"] = func() error { return str(d, device) }
}

func localAddresses(d *caddyfile.Dispenser, addresses *[]string, pick *string) error {
	if err := parsedWords(d, addresses, parseAddress); err != nil {
		return err
	}
	return block(d, "local_address", map[string]func() error{
		"pick": func() error { return oneOf(d, pick, pickRoundRobin, pickUserHash) },
	})
}
