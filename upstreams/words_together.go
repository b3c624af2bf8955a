package upstreams

import (
	"cmp"
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains which words of a group go together, where that is known only when all
// are read.

// CheckWords finds the words of the group, and of its upstreams, that do not go together.
func (g *Group) CheckWords() error {
	if err := g.checkHealth(); err != nil {
		return err
	}
	for _, u := range g.Upstreams {
		if err := u.checkWritten(g.Scheme); err != nil {
			return u.at.Errf("upstream: %v", inWords(err))
		}
	}
	return nil
}

// Place is where the group begins: its block, or its first upstream where it has none.
func (g *Group) Place() *caddyfile.Dispenser {
	if g.at != nil {
		return g.at
	}
	return g.Upstreams[0].at
}

// checkWritten refuses settings that do not suit the URL, or each other, as far as its
// placeholders let it be seen.
func (u *Upstream) checkWritten(scheme string) error {
	if strings.Contains(u.URL, "{") {
		return nil
	}
	addr, err := upstream.ParseURL(u.URL, scheme)
	if err != nil {
		return err
	}
	return cmp.Or(u.checkShared(), u.checkSuits(addr))
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
