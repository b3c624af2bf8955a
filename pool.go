package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
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

// pathState is what is known of one path of one handler. It lives in a
// caddy.UsagePool under its handler, and under the settings that decide what can be
// reached on the path: another handler may have other access rules, and with other
// upstreams a destination that could not be reached is perhaps well.
type pathState struct {
	circuits *destination.Circuits
	group    upstream.State // nothing where the path is direct
}

// Destruct forgets it. Requests of the last configuration may go on using it.
func (*pathState) Destruct() error { return nil }

var pathStates = shared.NewPool[*pathState]()

// pathUse is one configuration's hold on a pathState.
type pathUse = shared.Use[*pathState]

// usePath loads the state of a path, or begins a new one.
func usePath(circuit DestinationCircuit, identity ...any) (*pathUse, error) {
	key, err := shared.DigestOf(append(identity, circuit)...)
	if err != nil {
		return nil, err
	}
	return pathStates.Use(key, func() (*pathState, error) {
		return &pathState{circuits: destination.New(circuit.config(), circuit.Off)}, nil
	})
}

// acquireDirect loads the state of the direct path.
func (h *Handler) acquireDirect(t *Transport) (err error) {
	if h.reach, err = t.reach(); err != nil {
		return err
	}
	if h.direct, err = usePath(h.circuit, h.place(), h.reach); err != nil {
		return err
	}
	h.destinations = h.direct.Value.circuits.Path("", h.logger.Named("health"))
	return nil
}

// useGroupPath loads the state of the path through a group. It must be called before the
// modules of the group are loaded, which empties their JSON.
func (h *Handler) useGroupPath(name string, c *UpstreamGroup) (*pathUse, error) {
	return usePath(h.circuit, h.place(), h.reach, h.ResolveNames,
		name, c.Upstreams, c.File, c.DynamicRaw, c.Scheme, c.Credentials, c.TLS)
}

// reach are the settings that decide which destinations can be reached, and in which
// time: those on connections that stand, and on how many there may be, are not.
type reach struct {
	DialTimeout, FallbackDelay caddy.Duration
	TLS                        *reverseproxy.TLSConfig
	Resolver                   *Resolver
	HostsOverride              map[string][]string
	PreferIP                   string
	LocalAddresses             []string
	LocalAddressPick           string
	Interface                  string
}

// reach must be called before TLS modules are loaded, which empties their JSON.
func (t *Transport) reach() (string, error) {
	return shared.DigestOf(reach{
		t.DialTimeout, t.FallbackDelay, t.TLS, t.Resolver, t.HostsOverride, t.PreferIP,
		t.LocalAddresses, t.LocalAddressPick, t.Interface,
	})
}
