package egress

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains which words of the Caddyfile go together, where that is known only
// when all are read.

// checkGroups finds the groups and upstreams whose words do not go together, when all are
// known.
func (h *Handler) checkGroups() error {
	for _, name := range slices.Sorted(maps.Keys(h.Groups)) {
		g := h.Groups[name]
		if err := cmp.Or(g.validate(), h.checkReached(name)); err != nil {
			return g.place().Errf("upstreams %s: %v", name, err)
		}
		if err := g.checkHealth(); err != nil {
			return err
		}
		for _, u := range g.Upstreams {
			if err := u.checkWritten(g.Scheme); err != nil {
				return u.at.Errf("upstream: %v", inWords(err))
			}
		}
	}
	return nil
}

// place is where the group begins: its block, or its first upstream where it has none.
func (g *UpstreamGroup) place() *caddyfile.Dispenser {
	if g.at != nil {
		return g.at
	}
	return g.Upstreams[0].at
}

// checkReached is checkUsed, as far as placeholders let the targets be seen.
func (h *Handler) checkReached(name string) error {
	unseen := func(r *Route) bool { return words.HasPlaceholder(r.To) || words.HasPlaceholder(r.Fallback) }
	if slices.ContainsFunc(h.Routes, unseen) {
		return nil
	}
	return h.checkUsed(name)
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
