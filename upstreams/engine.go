package upstreams

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/sources"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains what the settings of a group mean for the group that is made of them.

// Settle gives c all that the settings of the group say of it. otherPath: there is another
// way to destinations than this group, over which they can be seen to answer. plain: there
// is an https upstream without TLS settings.
func (g *Group) Settle(ctx caddy.Context, c *upstream.Config, otherPath bool) (plain bool, err error) {
	if err := g.Validate(); err != nil {
		return false, err
	}
	lb := g.LoadBalancing.withDefaults()
	if err := lb.validate(); err != nil {
		return false, err
	}
	c.Balancing, c.File, c.Scheme = lb.engine(), g.File, g.Scheme
	if c.Policy, err = selection.Load(ctx, &lb, "SelectionPolicyRaw", lb.SelectionPolicyRaw, new(selection.EWMA)); err != nil {
		return false, fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	if c.Sources, err = sources.Load(ctx, g.DynamicRaw); err != nil {
		return false, err
	}
	if c.Health, err = g.Health(otherPath); err != nil {
		return false, err
	}
	specs, err := newSpecs(ctx, g)
	if err != nil {
		return false, err
	}
	c.At = func(addr upstream.Address, rank upstream.Rank) (*upstream.Spec, error) {
		return specs.at(&Upstream{Priority: rank.Priority, Weight: rank.Weight}, addr)
	}
	if c.Static, err = specs.all(); err != nil {
		return false, err
	}
	c.Checks, err = g.Checks()
	return g.trustsByDefault(specs, c.Static), err
}

// trustsByDefault reports whether there is an https upstream without TLS settings.
func (g *Group) trustsByDefault(specs *specs, static []*upstream.Spec) bool {
	if g.Scheme == upstream.HTTPS && g.TLS == nil && (g.File != "" || len(g.DynamicRaw) > 0) {
		return true
	}
	for i, s := range static {
		if s.Addr.Scheme == upstream.HTTPS && specs.tlsOf(g.Upstreams[i], s.Addr) == nil {
			return true
		}
	}
	return false
}

// Health is what the settings mean for the health of the members.
func (g *Group) Health(otherPath bool) (health.GroupConfig, error) {
	c := g.Circuit.withDefaults()
	if err := c.validate(); err != nil {
		return health.GroupConfig{}, err
	}
	slowStart := g.SlowStart
	settings.Default(&slowStart, caddy.Duration(30*time.Second))
	cfg := health.GroupConfig{OtherPath: otherPath, UpstreamConfig: health.DefaultUpstreamConfig()}
	cfg.ConsecutiveFailures = c.ConsecutiveFailures
	cfg.MinSuccessRate = *c.MinSuccessRate
	cfg.Window = time.Duration(c.Window)
	cfg.MinSamples = c.MinSamples
	cfg.OpenFor = time.Duration(c.OpenFor)
	cfg.MaxOpenFor = time.Duration(c.MaxOpenFor)
	cfg.MaxEjected = *c.MaxEjected
	cfg.PanicBelow = *c.PanicBelow
	cfg.SlowStart = max(time.Duration(slowStart), 0)
	if err := cfg.UpstreamConfig.Validate(); err != nil {
		return cfg, fmt.Errorf("circuit.%w", err)
	}
	return cfg, nil
}
