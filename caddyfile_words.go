package egress

import (
	"errors"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the table of all words, by which the error of a word in the wrong
// block names the right one.

// block is words.Block among the blocks of egress.
func block(d *caddyfile.Dispenser, name string, parse map[string]func() error, repeatable ...string) error {
	return words.BlockAmong(grammarBlocks, d, name, parse, repeatable...)
}

// errorAt is the error of settings that do not go together, with the line at which d is.
func errorAt(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

// inWords is an error of a setting by the name that it has in a Caddyfile.
func inWords(err error) error {
	e, ok := errors.AsType[*settingError](err)
	switch {
	case ok && e.setting == "local_addresses":
		return &settingError{"local_address", e.reason}
	case ok && e.setting == "tls":
		return &settingError{"tls_…", e.reason}
	}
	return err
}

// grammarBlocks are the blocks as they open, with the words in each. They are those of
// the parser, which reads nothing here.
func grammarBlocks() []words.Opening {
	pick := new(string)
	return []words.Opening{
		{Text: "egress", Words: new(Handler).words(nil, nil)},
		{Text: "acl", Words: new(Handler).aclWords(nil)},
		{Text: "destination_circuit", Words: new(DestinationCircuit).words(nil)},
		{Text: "route", Words: new(Route).words(nil)},
		{Text: "upstreams <group>", Words: new(UpstreamGroup).words(nil)},
		{Text: "upstream <url>", Words: new(Upstream).words(nil)},
		{Text: "circuit", Words: new(UpstreamCircuit).words(nil)},
		{Text: "transport", Words: new(Transport).words(nil)},
		{Text: "tunnel", Words: new(Tunnel).words(nil)},
		{Text: "local_address <ip...>", Words: pickWords(nil, pick)},
	}
}
