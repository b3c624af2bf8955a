package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains how the resolver of a configuration is made, or taken over from
// the one before.

// provisionResolver gets the state of names that belongs to the settings.
func (t *Transport) provisionResolver(ctx caddy.Context, local *dial.Sources) (*shared.Use[*dial.Names], error) {
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
	return dial.SharedNames.Use(id, func() (*dial.Names, error) { return t.newNameState(tlsConfig, local) })
}

func (t *Transport) newNameState(tlsConfig *tls.Config, local *dial.Sources) (*dial.Names, error) {
	servers, err := t.dnsServers()
	if err != nil {
		return nil, err
	}
	static, err := t.staticHosts()
	if err != nil {
		return nil, err
	}
	system := dnscache.System{Resolver: systemResolver}
	cfg := dnscache.Config{
		Backend:      system,
		Static:       static,
		HostsFile:    dnscache.SystemHostsFile(),
		MaxQuestions: descriptors.Limit() / questionShare,
	}
	if len(servers) > 0 {
		if cfg.Backend, err = dnscache.NewClient(servers, tlsConfig, local.DialResolver(), system); err != nil {
			return nil, err
		}
	}
	return dial.NewNames(dnscache.New(cfg)), nil
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
