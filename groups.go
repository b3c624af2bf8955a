package egress

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/orders"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/sources"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains how groups of upstream proxies are made of their settings, and when
// they begin.

// provisionGroups sets up the groups of upstream proxies.
func (h *Handler) provisionGroups(ctx caddy.Context) error {
	h.groups = make(map[string]*upstream.Group, len(h.Groups))
	h.groupExits = make(map[string]*exitUse, len(h.Groups))
	for name, cfg := range h.Groups {
		if err := h.provisionGroup(ctx, name, cfg); err != nil {
			return fmt.Errorf("groups.%s: %w", name, err)
		}
	}
	return nil
}

func (h *Handler) provisionGroup(ctx caddy.Context, name string, cfg *UpstreamGroup) error {
	if err := checkGroupName(name); err != nil {
		return err
	}
	if cfg == nil {
		return errors.New("is null")
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	lb := cfg.LoadBalancing.withDefaults()
	if err := lb.validate(); err != nil {
		return err
	}
	exit, err := h.useGroupExit(name, cfg)
	if err != nil {
		return err
	}
	h.groupExits[name] = exit // from here on Cleanup releases it
	config, err := h.groupConfig(ctx, name, cfg, &lb)
	if err != nil {
		return err
	}
	g, err := upstream.New(*config)
	if err != nil {
		return err
	}
	h.groups[name] = g // from here on Cleanup closes it
	return nil
}

// groupConfig is what the settings of a group mean.
func (h *Handler) groupConfig(ctx caddy.Context, name string, cfg *UpstreamGroup, lb *LoadBalancing) (*upstream.Config, error) {
	exit := h.groupExits[name].Value
	c := &upstream.Config{
		Name:          name,
		Handler:       h.place(),
		Balancing:     lb.engine(),
		File:          cfg.File,
		Scheme:        cfg.Scheme,
		State:         &exit.group,
		Destinations:  exit.circuits.Path(name, h.logger.Named("health")),
		Dialer:        h.proxy.Direct.Dialer,
		Pool:          h.transport.poolConfig(),
		Transport:     shared.Digest(h.poolUse.Key, h.namesUse.Key),
		Via:           h.proxy.ViaFields(nil, core.ViaHTTP11),
		WarnOfSources: h.warnAboutSources,
		Context:       ctx,
		Logger:        h.logger.Named("upstreams").With(zap.String("group", name)),
	}
	var err error
	if c.Events, err = eventSink(ctx); err != nil {
		return nil, err
	}
	c.Policy, err = selection.Load(ctx, lb, "SelectionPolicyRaw", lb.SelectionPolicyRaw, new(selection.EWMA))
	if err != nil {
		return nil, fmt.Errorf("load_balancing.selection_policy: %w", err)
	}
	if c.Sources, err = sources.Load(ctx, cfg.DynamicRaw); err != nil {
		return nil, err
	}
	if c.Health, err = cfg.healthConfig(h.fallsBack(name)); err != nil {
		return nil, err
	}
	specs, err := newSpecs(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c.At = func(addr upstream.Address, rank upstream.Rank) (*upstream.Spec, error) {
		return specs.at(&Upstream{Priority: rank.Priority, Weight: rank.Weight}, addr)
	}
	if c.Static, err = specs.all(); err != nil {
		return nil, err
	}
	if h.Transport.trustsOrigins() && cfg.trustsByDefault(specs, c.Static) {
		c.Logger.Warn("the TLS settings of transport are for origins only, and an https upstream has none of its own; write tls_trust_pool and the like in the upstream or its group")
	}
	c.Checks, err = cfg.checks()
	return c, err
}

// trustsOrigins reports whether the settings say whom origins are to be, or who we are to
// them.
func (t *Transport) trustsOrigins() bool {
	if t == nil || t.TLS == nil {
		return false
	}
	c := t.TLS
	//lint:ignore SA1019 who still writes the old fields means them
	//nolint:staticcheck // likewise
	return c.InsecureSkipVerify || len(c.CARaw) > 0 || len(c.RootCAPool) > 0 || len(c.RootCAPEMFiles) > 0 ||
		c.ClientCertificateFile != "" || c.ClientCertificateAutomate != ""
}

// trustsByDefault reports whether there is an https upstream without TLS settings.
func (g *UpstreamGroup) trustsByDefault(specs *specs, static []*upstream.Spec) bool {
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

// fallsBack reports whether a route has another way than this group, over which
// destinations can be seen to answer.
func (h *Handler) fallsBack(name string) bool {
	for _, r := range h.Routes {
		if r != nil && r.To == name && r.Fallback != "" && r.Fallback != core.ExitDeny {
			return true
		}
	}
	return false
}

// healthConfig is what the settings mean for the health of the members.
func (g *UpstreamGroup) healthConfig(otherPath bool) (health.GroupConfig, error) {
	c := g.Circuit.withDefaults()
	if err := c.validate(); err != nil {
		return health.GroupConfig{}, err
	}
	slowStart := g.SlowStart
	setDefault(&slowStart, caddy.Duration(30*time.Second))
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

// startPoll is how often is looked whether the configuration runs, until it does.
const startPoll = 5 * time.Millisecond

// awaitStart begins with the checks once the configuration runs: what they find can be
// emitted from then on, and one that is only validated checks nobody. The events app
// tells the start to those who subscribe, but takes subscriptions without a lock, while
// health checks of reverse_proxy, which begin when they are provisioned, may emit.
func (h *Handler) awaitStart(ctx caddy.Context) {
	app, _ := caddyserver.Of(ctx)
	if app == nil {
		return
	}
	go func() {
		ticker := time.NewTicker(startPoll)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if runs(app) {
				h.events.Start()
				h.startGroups()
				orders.Of.Settle()
				return
			}
		}
	}()
}

// runs reports whether the configuration with an HTTP app is the one that runs.
func runs(app caddy.App) bool {
	running, err := caddy.ActiveContext().AppIfConfigured("http")
	return err == nil && running == any(app)
}

func (h *Handler) startGroups() {
	for _, g := range h.groups {
		g.Start()
	}
}

// closeGroups ends the groups, and gives back what is known of them.
func (h *Handler) closeGroups() error {
	var errs []error
	for name, exit := range h.groupExits {
		if g := h.groups[name]; g != nil {
			g.Close()
		}
		errs = append(errs, exit.Release())
	}
	h.groupExits = nil
	return errors.Join(errs...)
}
