package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains how the resolver of a configuration is made, or taken over from
// the one before.

// provisionResolver gets the state of names that belongs to the settings.
func (t *Transport) provisionResolver(ctx caddy.Context, local *sources) (*shared.Use[*nameState], error) {
	id := shared.Digest(t.Resolver, t.HostsOverride) // before TLS modules are loaded, which empties their JSON
	var tlsConfig *tls.Config
	if t.Resolver != nil {
		id = shared.Digest(id, t.LocalAddresses, t.Interface)
		if t.Resolver.TLS != nil {
			var err error
			if tlsConfig, err = t.Resolver.TLS.MakeTLSClientConfig(ctx); err != nil {
				return nil, fmt.Errorf("transport.resolver.tls: %w", err)
			}
			id = shared.Digest(id, shared.TLSIdentity(tlsConfig))
		}
	}
	return nameStates.Use(id, func() (*nameState, error) { return t.newNameState(tlsConfig, local) })
}

func (t *Transport) newNameState(tlsConfig *tls.Config, local *sources) (*nameState, error) {
	servers, err := t.dnsServers()
	if err != nil {
		return nil, err
	}
	static, err := t.staticHosts()
	if err != nil {
		return nil, err
	}
	cfg := dnscache.Config{
		Backend:      dnscache.System{Resolver: systemResolver},
		Static:       static,
		HostsFile:    dnscache.SystemHostsFile(),
		MaxQuestions: descriptors.Limit() / questionShare,
	}
	if len(servers) > 0 {
		if cfg.Backend, err = dnscache.NewClient(servers, tlsConfig, local.dialResolver()); err != nil {
			return nil, err
		}
	}
	return newNameState(dnscache.New(cfg)), nil
}

// questionShare is the part of the process's file descriptors that questions under way
// may have: a quarter. Each has a socket or two, for seconds where nobody answers,
// and whoever asks for many names must leave something to the others.
const questionShare = 4

// systemResolver is the resolver of the system. It leaves the reserve of descriptors to
// clients where Go speaks to the DNS servers itself.
var systemResolver = &net.Resolver{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
	nd := net.Dialer{Control: descriptors.KeepReserve}
	return nd.DialContext(ctx, network, address)
}}

// dialResolver connects to DNS servers from the sources, by turn: an answer is for all
// users. nil leaves it to the system.
func (s *sources) dialResolver() dnscache.Dial {
	var all *sources
	if s != nil {
		all = &sources{addrs: s.addrs, device: s.device}
	}
	return func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		from := all.pick(ctx)
		if to.Addr().IsLoopback() {
			from = from.onLoopback()
		}
		nd := net.Dialer{Control: descriptors.KeepReserve}
		from.apply(&nd, network, to.Addr())
		return nd.DialContext(ctx, network, to.String())
	}
}

// onLoopback is what is left of a source towards this machine itself, which is out of
// reach from an interface.
func (s source) onLoopback() source {
	s.device = ""
	for f, a := range s.addrs {
		if !a.IsLoopback() {
			s.addrs[f] = netip.Addr{}
		}
	}
	return s
}
