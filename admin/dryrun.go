package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
)

// This file contains how a configuration is provisioned without being run, so that
// its handlers can be asked what they would do.

// dryRunKey is where the context of a dry run carries the registry of its handlers.
type dryRunKey struct{}

// RegistryOf is the registry that a handler belongs in: that of the process, but for
// those of a dry run.
func RegistryOf(ctx context.Context) *Registry {
	if r, ok := ctx.Value(dryRunKey{}).(*Registry); ok {
		return r
	}
	return &Handlers
}

// WithRegistry makes handlers enter r that are provisioned with the context.
func WithRegistry(ctx context.Context, r *Registry) context.Context {
	return context.WithValue(ctx, dryRunKey{}, r)
}

// ProvisionDry provisions the HTTP app of a configuration, and the apps that it asks
// for, and returns the egress handlers in it. Nothing listens and nothing is dialed:
// active checks, standby connections, watched files and dynamic sources of upstreams
// are left alone, and so are the logs that the configuration names. Errors of other
// modules are logged to stderr. The function that it returns cleans up.
//
// Other modules are provisioned as `caddy validate` does.
func ProvisionDry(config []byte) (*Registry, func(), error) {
	cfg := new(caddy.Config)
	if err := json.Unmarshal(caddy.RemoveMetaFields(config), cfg); err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	if cfg.AppsRaw["http"] == nil {
		return nil, nil, errors.New("configuration: it has no HTTP servers")
	}
	// A context that can be cancelled, and that tells handlers what they are for, is
	// to be had only as a child of the one that is made here: so that one gets no apps.
	apps := cfg.AppsRaw
	cfg.AppsRaw = nil
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{Level: "ERROR"}},
	}}
	base, err := caddy.ProvisionContext(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	cfg.AppsRaw = apps
	found := new(Registry)
	base.Context = WithRegistry(base.Context, found)
	ctx, cancel := caddy.NewContext(base)
	if _, err := ctx.App("http"); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("configuration: %w", err)
	}
	return found, cancel, nil
}
