package egress

import (
	"cmp"
	"maps"
	"slices"

	"github.com/caddy-egress/egress/internal/words"
)

// This file contains which words of the Caddyfile go together, where that is known only
// when all are read.

// checkGroups finds the groups and upstreams whose words do not go together, when all are
// known.
func (h *Handler) checkGroups() error {
	for _, name := range slices.Sorted(maps.Keys(h.Groups)) {
		g := h.Groups[name]
		if err := cmp.Or(g.Validate(), h.checkReached(name)); err != nil {
			return g.Place().Errf("upstreams %s: %v", name, err)
		}
		if err := g.CheckWords(); err != nil {
			return err
		}
	}
	return nil
}

// checkReached is checkUsed, as far as placeholders let the targets be seen.
func (h *Handler) checkReached(name string) error {
	unseen := func(r *Route) bool { return words.HasPlaceholder(r.To) || words.HasPlaceholder(r.Fallback) }
	if slices.ContainsFunc(h.Routes, unseen) {
		return nil
	}
	return h.checkUsed(name)
}
