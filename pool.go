package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/shared"
)

// poolID names the settings that a pool belongs to, beside what was in the files that
// they name.
func (t *Transport) poolID() (string, error) { return shared.DigestOf(t) }

// provisionTransport builds pool and dialer.
func (h *Handler) provisionTransport(ctx caddy.Context) error {
	t := h.Transport.withDefaults()
	if err := t.validate(); err != nil {
		return err
	}
	id, err := t.poolID() // before TLS modules are loaded, which empties their JSON
	if err != nil {
		return err
	}
	if err := h.acquireDirect(&t); err != nil {
		return err
	}
	tlsConfig, err := t.TLS.MakeTLSClientConfig(ctx)
	if err != nil {
		return fmt.Errorf("transport.tls: %w", err)
	}
	if tlsConfig == nil {
		tlsConfig = new(tls.Config)
	}
	id = shared.Digest(id, shared.TLSIdentity(tlsConfig))
	tlsConfig.NextProtos = []string{"http/1.1"}
	tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1024)

	local, err := t.localSources()
	if err != nil {
		return err
	}
	if h.namesUse, err = t.provisionResolver(ctx, local); err != nil {
		return err
	}
	h.names = h.namesUse.Value
	h.poolUse, err = origin.Shared.Use(id, func() (*origin.Pool, error) { return origin.New(t.poolConfig(), t.MaxPerClient, t.MaxPerUser), nil })
	if err != nil {
		return err
	}
	h.proxy.Pool = h.poolUse.Value
	h.transport = t
	here := self.New(self.Config{Admin: h.adminAddresses, Usage: caddy.ListenerUsage, Active: activeConfig})
	for _, host := range serverHosts(ctx) {
		here.ListensOn(host)
	}
	h.proxy.Direct = &core.Direct{Circuits: h.destinations, Dialer: &dial.Dialer{
		Access:        h.proxy.Access,
		Self:          here,
		Timeout:       time.Duration(t.DialTimeout),
		FallbackDelay: time.Duration(t.FallbackDelay),
		TLSTimeout:    time.Duration(t.TLS.HandshakeTimeout),
		TLSConfig:     tlsConfig,
		Names:         h.names,
		Order:         dial.Orders[t.PreferIP],
		Sources:       local,
		DialAddr:      dial.ToAddr,
	}}
	h.warnAboutSources(local)
	return nil
}

// releaseTransport gives back what of the pool, the names and the direct path was
// acquired.
func (h *Handler) releaseTransport() error {
	errs := []error{h.direct.Release(), h.poolUse.Release(), h.namesUse.Release()}
	h.direct, h.poolUse, h.namesUse = nil, nil, nil
	for _, r := range h.Routes {
		if r != nil {
			errs = append(errs, r.path.Release())
			r.path = nil
		}
	}
	return errors.Join(errs...)
}
