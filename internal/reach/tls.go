package reach

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddy-egress/egress/internal/words"
)

// TLSWords adds the words of reverse_proxy's transport that make sense
// towards origins and upstreams alike.
func TLSWords(d *caddyfile.Dispenser, to **reverseproxy.TLSConfig, parse map[string]func() error) {
	tls := func() *reverseproxy.TLSConfig {
		if *to == nil {
			*to = new(reverseproxy.TLSConfig)
		}
		return *to
	}
	parse["tls_timeout"] = func() error { return words.Duration(d, &tls().HandshakeTimeout, words.UntilAnswered) }
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

// CheckTLS refuses those settings of reverse_proxy's transport that make no
// sense here towards anybody. name is that of the settings, and TLS is spoken where
// the scheme of what says so.
func CheckTLS(c *reverseproxy.TLSConfig, name, what string) error {
	switch {
	case len(c.ExceptPorts) > 0:
		return fmt.Errorf("%s.except_ports: the scheme of %s decides about TLS", name, what)
	case c.Renegotiation != "":
		return fmt.Errorf("%s.renegotiation: not supported", name)
	}
	return nil
}
