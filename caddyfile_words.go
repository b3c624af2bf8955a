package egress

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/words"
	"github.com/caddy-egress/egress/upstreams"
)

// This file contains the table of all words, by which the error of a word in the wrong
// block names the right one.

// block is words.Block among the blocks of egress.
func block(d *caddyfile.Dispenser, name string, parse map[string]func() error, repeatable ...string) error {
	return words.Grammar(grammarBlocks).Block(d, name, parse, repeatable...)
}

// grammarBlocks are the blocks as they open, with the words in each. They are those of
// the parser, which reads nothing here.
func grammarBlocks() []words.Opening {
	return slices.Concat([]words.Opening{
		{Text: "egress", Words: new(Handler).words(nil, nil)},
		{Text: "acl", Words: new(Handler).aclWords(nil)},
		{Text: "destination_circuit", Words: new(DestinationCircuit).words(nil)},
		{Text: "route", Words: new(Route).words(nil)},
	}, upstreams.Openings(), []words.Opening{
		{Text: "transport", Words: new(Transport).words(nil)},
		{Text: "tunnel", Words: new(Tunnel).words(nil)},
	}, reach.Openings())
}
