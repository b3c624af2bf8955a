package sources

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the sources that are looked up here: `a` and `srv`.

// setAddressSource is setSource for `a`.
func setAddressSource(s *upstream.Source, a *reverseproxy.AUpstreams) error {
	repl := caddy.NewReplacer()
	name, port := repl.ReplaceAll(a.Name, ""), repl.ReplaceAll(a.Port, "")
	resolver, err := lookUp(s, a.Refresh, a.Resolver, a.DialTimeout, a.FallbackDelay)
	if err != nil {
		return fmt.Errorf("a: %w", err)
	}
	network := "ip"
	if v := a.Versions; v != nil {
		switch v4, v6 := v.IPv4 != nil && *v.IPv4, v.IPv6 != nil && *v.IPv6; {
		case v4 && !v6:
			network = "ip4"
		case v6 && !v4:
			network = "ip6"
		}
	}
	s.Name = "a " + name
	s.Ask = func(ctx context.Context) ([]upstream.Found, error) {
		ips, err := resolver.LookupIP(ctx, network, name)
		if err != nil {
			return nil, err
		}
		found := make([]upstream.Found, len(ips))
		for i, ip := range ips {
			found[i].HostPort = net.JoinHostPort(ip.String(), port)
		}
		return found, nil
	}
	return nil
}

// setSRVSource is setSource for `srv`.
func setSRVSource(s *upstream.Source, srv *reverseproxy.SRVUpstreams) error {
	if srv.DialNetwork != "" {
		return errors.New("srv: dial_network: members are dialed as the group says; write prefer_ip in transport instead")
	}
	repl := caddy.NewReplacer()
	service, proto, name := repl.ReplaceAll(srv.Service, ""), repl.ReplaceAll(srv.Proto, ""), repl.ReplaceAll(srv.Name, "")
	resolver, err := lookUp(s, srv.Refresh, srv.Resolver, srv.DialTimeout, srv.FallbackDelay)
	if err != nil {
		return fmt.Errorf("srv: %w", err)
	}
	s.Name = "srv " + name
	if service != "" || proto != "" {
		s.Name = fmt.Sprintf("srv _%s._%s.%s", service, proto, name)
	}
	s.Ask = func(ctx context.Context) ([]upstream.Found, error) {
		_, records, err := resolver.LookupSRV(ctx, service, proto, name)
		if err != nil && len(records) == 0 {
			return nil, err // beside records, it is of other ones whose names are not valid
		}
		return foundRecords(records), nil
	}
	return nil
}

// foundRecords are the members that SRV records name (RFC 2782). Weights are made smaller
// in proportion where one is larger than that of a member may be.
func foundRecords(records []*net.SRV) []upstream.Found {
	heaviest := upstream.MaxWeight
	for _, r := range records {
		heaviest = max(heaviest, int(r.Weight))
	}
	found := make([]upstream.Found, 0, len(records))
	for _, r := range records {
		host := strings.TrimSuffix(r.Target, ".")
		if host == "" {
			continue // the service is decidedly not there
		}
		found = append(found, upstream.Found{
			HostPort: net.JoinHostPort(host, strconv.Itoa(int(r.Port))),
			Rank:     upstream.Rank{Priority: int(r.Priority), Weight: max(int(r.Weight)*upstream.MaxWeight/heaviest, 1)},
		})
	}
	return found
}

// lookUp sets when a source is asked that looks a name up, and returns what it is looked
// up with: the resolver of the system, or, as reverse_proxy does it, one of the servers
// by chance.
func lookUp(s *upstream.Source, refresh caddy.Duration, servers *reverseproxy.UpstreamResolver, timeout, fallbackDelay caddy.Duration) (*net.Resolver, error) {
	if time.Duration(refresh) < minRefresh {
		return nil, fmt.Errorf("refresh: %s is below %s", time.Duration(refresh), minRefresh)
	}
	s.Every, s.Patience = time.Duration(refresh), lookUpFor
	if servers == nil {
		return net.DefaultResolver, nil
	}
	if len(servers.Addresses) == 0 {
		return nil, errors.New("resolver: has no addresses")
	}
	var addrs []caddy.NetworkAddress
	for _, text := range servers.Addresses {
		addr, err := caddy.ParseNetworkAddressWithDefaults(text, "udp", 53) // it was read before: Caddy has provisioned it
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	d := &net.Dialer{Timeout: time.Duration(timeout), FallbackDelay: time.Duration(fallbackDelay)}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		addr := addrs[rand.IntN(len(addrs))] //nolint:gosec // any of them will do
		return d.DialContext(ctx, addr.Network, addr.JoinHostPort(0))
	}}, nil
}
