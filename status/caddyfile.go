package status

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-egress/egress/internal/plaintext"
)

func init() {
	httpcaddyfile.RegisterDirective("egress_status", parseDirective)
	// After basic_auth, which says who asks.
	httpcaddyfile.RegisterDirectiveOrder("egress_status", httpcaddyfile.Before, "respond")
}

// parseDirective makes the route of a page: its first argument is where it is, and no
// matcher.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	s := new(Status)
	if err := s.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	path := s.path()
	paths, err := json.Marshal([]string{path, strings.TrimSuffix(path, "/") + "/*"})
	if err != nil {
		return nil, err
	}
	return h.NewRoute(caddy.ModuleMap{"path": paths}, s), nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	egress_status [<path>] {
//		allow       <ip|network>...
//		allow_users <*|user...>
//	}
func (s *Status) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	args := d.RemainingArgs()
	if len(args) > 1 {
		return d.Errf("egress_status expects one path at most · got %d", len(args))
	}
	if len(args) == 1 {
		s.Path = args[0]
		if err := s.checkPath(); err != nil {
			return d.WrapErr(err)
		}
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		word := d.Val()
		values := d.RemainingArgs()
		switch {
		case word != "allow" && word != "allow_users":
			return d.Errf("unrecognized subdirective '%s' of egress_status; there are: allow, allow_users", plaintext.Escaped(word))
		case seen[word]:
			return d.Errf("duplicate '%s'", word)
		case len(values) == 0 && word == "allow":
			return d.Errf("allow expects IP addresses or networks")
		case len(values) == 0:
			return d.Errf("allow_users expects names, or * for every user who is authenticated")
		}
		seen[word] = true
		if word == "allow_users" {
			s.AllowUsers = values
			continue
		}
		for _, v := range values {
			if _, err := parseNetwork(v); err != nil && !strings.HasPrefix(v, "{") {
				return d.WrapErr(err)
			}
		}
		s.Allow = values
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Status)(nil)
