package selection

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/words"
)

// This file contains how selection policies are read from a Caddyfile.

// policyElsewhere says what to write instead of policies of reverse_proxy that
// make no sense here.
var policyElsewhere = map[string]string{
	"ip_hash":  "client_ip_hash",
	"uri_hash": "destination_hash",
	"query":    "destination_hash",
}

// Unmarshal reads `<word> <policy> [<options>]`, with the word as current
// token, and returns the policy as JSON with the inline key `policy`.
func Unmarshal(d *caddyfile.Dispenser) (json.RawMessage, error) {
	word := d.Val()
	if !d.NextArg() {
		return nil, d.Errf("%s wants the name of a selection policy", word)
	}
	name := d.Val()
	if instead, ok := policyElsewhere[name]; ok {
		return nil, d.Errf("unknown selection policy '%s' (write %s)", name, instead)
	}
	if err := words.Module(d, policyNamespace, "selection policy"); err != nil {
		return nil, err
	}
	module, err := caddyfile.UnmarshalModule(d, policyNamespace+"."+name)
	if err != nil {
		return nil, err
	}
	policy, ok := module.(Policy)
	if !ok {
		return nil, d.Errf("module %s.%s (%T) is no selection policy", policyNamespace, name, module)
	}
	return caddyconfig.JSONModuleObject(policy, "policy", name, nil), nil
}

// unmarshalBare reads a policy that has no options.
func unmarshalBare(d *caddyfile.Dispenser) error {
	d.Next() // policy name
	name := d.Val()
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': %s takes none", d.Val(), name)
	}
	return noPolicyBlock(d, name)
}

func noPolicyBlock(d *caddyfile.Dispenser, name string) error {
	return words.Block(d, name, map[string]func() error{})
}

// unmarshalKeyed reads `<policy> <token> { fallback <policy> }`; what is the name
// of the token in JSON.
func unmarshalKeyed(d *caddyfile.Dispenser, what string, token *string, fallback *json.RawMessage) error {
	d.Next() // policy name
	name := d.Val()
	if err := words.Text(d, token); err != nil {
		return err
	}
	if err := checkToken(what, *token); err != nil {
		return d.Errf("%s: %v", name, err)
	}
	return words.Block(d, name, map[string]func() error{
		"fallback": func() (err error) {
			*fallback, err = Unmarshal(d)
			return err
		},
	})
}
