package reach

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/words"
)

// Source is where connections leave from, and to which addresses.
type Source struct {
	Addresses                *[]string
	Pick, Device, Preference *string
}

// SourceWords adds the words about where connections leave from, and to which addresses.
func SourceWords(d *caddyfile.Dispenser, in words.Grammar, s Source, parse map[string]func() error) {
	parse["local_address"] = func() error { return s.unmarshalAddresses(d, in) }
	parse["interface"] = func() error { return words.Checked(d, s.Device, dial.CheckInterface) }
	parse["prefer_ip"] = func() error {
		if err := words.OneOf(d, s.Preference, "4", "6", "4_only", "6_only"); err != nil {
			return err
		}
		return s.check(d, "prefer_ip")
	}
}

// check refuses the addresses, alone or with the preference, as far as placeholders let
// them be seen.
func (s Source) check(d *caddyfile.Dispenser, word string) error {
	if slices.ContainsFunc(*s.Addresses, words.HasPlaceholder) {
		return nil
	}
	if err := dial.CheckAddresses(*s.Addresses, *s.Preference); err != nil {
		return d.Errf("%s: %v", word, err)
	}
	return nil
}

func (s Source) unmarshalAddresses(d *caddyfile.Dispenser, in words.Grammar) error {
	if err := words.Parsed(d, s.Addresses, dial.ParseAddress); err != nil {
		return err
	}
	if err := s.check(d, "local_address"); err != nil {
		return err
	}
	return in.Block(d, "local_address", pickWords(d, s.Pick))
}

func pickWords(d *caddyfile.Dispenser, pick *string) map[string]func() error {
	return map[string]func() error{
		"pick": func() error { return words.OneOf(d, pick, dial.PickRoundRobin, dial.PickUserHash) },
	}
}

// Openings are the blocks of these words.
func Openings() []words.Opening {
	return []words.Opening{{Text: "local_address <ip...>", Words: pickWords(nil, new(string))}}
}
