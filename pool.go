package egress

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/self"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/upstreams"
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
	for _, host := range caddyserver.Hosts(ctx) {
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

// releaseTransport gives back what of the pool, the names and the direct exit was
// acquired.
func (h *Handler) releaseTransport() error {
	errs := []error{h.direct.Release(), h.poolUse.Release(), h.namesUse.Release()}
	h.direct, h.poolUse, h.namesUse = nil, nil, nil
	for _, r := range h.Routes {
		if r != nil {
			errs = append(errs, r.exit.Release())
			r.exit = nil
		}
	}
	return errors.Join(errs...)
}

// exitState is what is known of one exit of one handler. It lives in a
// caddy.UsagePool under its handler, and under the settings that decide what can be
// reached there: another handler may have other access rules, and with other
// upstreams a destination that could not be reached is perhaps well.
type exitState struct {
	circuits *destination.Circuits
	group    upstream.State // nothing where the exit is direct
}

// Destruct forgets it. Requests of the last configuration may go on using it.
func (*exitState) Destruct() error { return nil }

var exitStates = shared.NewPool[*exitState]()

// exitUse is one configuration's hold on a exitState.
type exitUse = shared.Use[*exitState]

// useExit loads the state of an exit, or begins a new one.
func useExit(circuit DestinationCircuit, identity ...any) (*exitUse, error) {
	key, err := shared.DigestOf(append(identity, circuit)...)
	if err != nil {
		return nil, err
	}
	return exitStates.Use(key, func() (*exitState, error) {
		return &exitState{circuits: destination.New(circuit.config(), circuit.Off)}, nil
	})
}

// acquireDirect loads the state of the direct exit.
func (h *Handler) acquireDirect(t *Transport) (err error) {
	if h.reach, err = t.reach(); err != nil {
		return err
	}
	if h.direct, err = useExit(h.circuit, h.place(), h.reach); err != nil {
		return err
	}
	h.destinations = h.direct.Value.circuits.Path("", h.logger.Named("health"))
	return nil
}

// useGroupExit loads the state of the exit through a group. It must be called before the
// modules of the group are loaded, which empties their JSON.
func (h *Handler) useGroupExit(name string, c *upstreams.Group) (*exitUse, error) {
	return useExit(h.circuit, h.place(), h.reach, h.ResolveNames,
		name, c.Upstreams, c.File, c.DynamicRaw, c.Scheme, c.Credentials, c.TLS)
}

// reachable are the settings that decide which destinations can be reached, and in which
// time: those on connections that stand, and on how many there may be, are not.
type reachable struct {
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
	return shared.DigestOf(reachable{
		t.DialTimeout, t.FallbackDelay, t.TLS, t.Resolver, t.HostsOverride, t.PreferIP,
		t.LocalAddresses, t.LocalAddressPick, t.Interface,
	})
}
