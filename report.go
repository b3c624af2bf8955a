package egress

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains what a handler reports of itself to the admin API and to metrics.

// Report implements metrics.Handler and admin.Entry.
func (s *served) Report() core.Report {
	h := (*Handler)(s)
	r := h.proxy.Report()
	r.Names = h.names.Len()
	h.eachPath(func(p *destination.Path) {
		r.Failing += p.Tracked()
		r.Open += p.Open()
	})
	if last := h.lastReload.Load(); last != nil {
		r.Reload = &core.Reload{
			Connections: last.ConnectionsKept.Idle + last.ConnectionsKept.Active, Upstreams: last.UpstreamsKept + last.UpstreamsChanged,
			Tunnels: last.Tunnels, Destinations: last.FailingDestinations,
			LeftConnections: last.ConnectionsClosed.Idle + last.ConnectionsClosed.Active, LeftUpstreams: last.UpstreamsRemoved,
		}
	}
	now := time.Now()
	for _, g := range h.groups {
		r.Groups = append(r.Groups, g.Report(now))
	}
	slices.SortFunc(r.Groups, func(a, b upstream.Report) int { return cmp.Compare(a.Name, b.Name) })
	return r
}

// eachPath calls f for the circuits of each way that requests leave on, once where routes
// share them.
func (h *Handler) eachPath(f func(*destination.Path)) {
	told := make(map[*destination.Circuits]bool)
	tell := func(p *destination.Path) {
		if p != nil && !told[p.Circuits] {
			told[p.Circuits] = true
			f(p)
		}
	}
	tell(h.destinations)
	for _, route := range h.Routes {
		if d := route.way.Direct; d != nil {
			tell(d.Circuits)
		}
	}
	for _, g := range h.groups {
		tell(g.Destinations())
	}
}

// Rules implements admin.Entry.
func (s *served) Rules() acl.Report { return s.proxy.Access.Report() }

// Destinations implements admin.Entry.
func (s *served) Destinations() (all []destination.Failing) {
	(*Handler)(s).eachPath(func(p *destination.Path) { all = append(all, p.Failing()...) })
	return all
}

// Names implements admin.Entry.
func (s *served) Names() dnscache.Report { return s.names.Report() }

// Look implements admin.Entry.
func (s *served) Look(name string) []dnscache.Known { return s.names.Look(name) }

// Users implements admin.Entry.
func (s *served) Users() []string {
	if !s.Auth.enabled() {
		return nil
	}
	return s.Auth.users.Names()
}

// Exchanges implements admin.Entry.
func (s *served) Exchanges(user string) (n int, counted bool) {
	if _, counted = s.proxy.Pool.Counts(); !counted {
		return 0, false
	}
	_, n = s.proxy.Pool.Held("", user)
	return n, true
}

// LastReload implements admin.Entry.
func (s *served) LastReload() *admin.Reload { return s.lastReload.Load() }

// Interface guards
var _ admin.Entry = (*served)(nil)

// ResetDestination implements admin.Entry.
func (s *served) ResetDestination(dest string) (n int) {
	(*Handler)(s).eachPath(func(p *destination.Path) { n += p.Reset(dest) })
	return n
}

// CheckUpstream implements admin.Entry.
func (s *served) CheckUpstream(ctx context.Context, id string) (found bool, c *upstream.Checked, err error) {
	for _, g := range s.groups {
		for _, m := range g.Current() {
			if m.ID() == id {
				c, err = g.Check(ctx, m)
				return true, c, err
			}
		}
	}
	return false, nil, nil
}

// FlushNames implements admin.Entry.
func (s *served) FlushNames(name string) int { return s.names.Forget(name) }

// Emit implements admin.Entry.
func (s *served) Emit(name string, data map[string]any) {
	s.events.Add(name, data)
}
