package egress

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/upstreams"
)

// This file contains how groups of upstream proxies are made of their settings.

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

// checkGroupName refuses what cannot be the name of a group.
func checkGroupName(name string) error {
	switch {
	case name == core.ExitDirect || name == core.ExitDeny:
		return fmt.Errorf("'%s' cannot be the name of a group: it means something else in routes", name)
	case name == "" || plaintext.HasControl(name):
		return errors.New("a group needs a name")
	}
	return nil
}

func (h *Handler) provisionGroup(ctx caddy.Context, name string, cfg *upstreams.Group) error {
	if err := checkGroupName(name); err != nil {
		return err
	}
	if cfg == nil {
		return errors.New("is null")
	}
	exit, err := h.useGroupExit(name, cfg)
	if err != nil {
		return err
	}
	h.groupExits[name] = exit // from here on Cleanup releases it
	config, err := h.groupConfig(ctx, name, cfg)
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

// groupConfig is what the settings of a group mean, and what those of the handler mean for it.
func (h *Handler) groupConfig(ctx caddy.Context, name string, cfg *upstreams.Group) (*upstream.Config, error) {
	exit := h.groupExits[name].Value
	c := &upstream.Config{
		Name:          name,
		Handler:       h.place(),
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
	if app, _ := caddyserver.Of(ctx); app != nil {
		c.Configuration = app
	}
	var err error
	if c.Events, err = eventSink(ctx); err != nil {
		return nil, err
	}
	plain, err := cfg.Settle(ctx, c, h.fallsBack(name))
	if plain && h.Transport.trustsOrigins() {
		c.Logger.Warn("the TLS settings of transport are for origins only, and an https upstream has none of its own; write tls_trust_pool and the like in the upstream or its group")
	}
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
