package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/target"
)

// This file contains what the settings of Transport about names and addresses
// mean: resolver, hosts_override, prefer_ip, local_addresses and interface.

// Resolver is who is asked for the addresses of names.
type Resolver struct {
	// Addresses are DNS servers. The first that can tell is believed; one that
	// cannot be reached within 2s, or that says that it cannot tell, is
	// followed by the next; so is one that has no addresses, is no authority
	// for the name and asks nobody. One that gave no answer about three names
	// in a row, or to two questions in a row that another one has answered,
	// and none to questions that it has answered before or about the
	// root when it was checked, is asked last until a check every 30s, also
	// with a client's question, brings an answer. Each is one of:
	//
	// - `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1`, `[2001:db8::1]:5353`,
	//   `udp://192.0.2.1`: over UDP, and over TCP where an answer is truncated
	// - `tcp://192.0.2.1`
	// - `tls://192.0.2.1#dns.example`: DNS over TLS (RFC 7858), port 853; the
	//   certificate must be valid for the name behind `#`, or for the host
	// - `https://dns.example/dns-query`, `https://192.0.2.1/dns-query#dns.example`:
	//   DNS over HTTPS (RFC 8484)
	//
	// A name as host is possible with tls and https; the resolver of the
	// system is asked for its addresses. Servers are configured, so access
	// rules do not apply to them. They are asked from the local_addresses and
	// the interface of the transport, by turn whatever the pick, since answers
	// are for all users; the system chooses where no local address is of their
	// family, and towards a server on loopback, unless the local address is
	// there too. Routes ask like the transport. At least one is needed.
	Addresses []string `json:"addresses,omitempty"`

	// TLS configures TLS towards servers with tls and https, with the settings
	// of reverse_proxy's transport: what their certificates are checked
	// against, and a certificate of our own. server_name, which is behind `#`,
	// handshake_timeout, which the time for an answer bounds, except_ports and
	// renegotiation have no meaning here and are refused. Default: the roots
	// of the system.
	TLS *reverseproxy.TLSConfig `json:"tls,omitempty"`
}

// setNameDefaults fills in the defaults of the settings about names.
func (t *Transport) setNameDefaults() {
	settings.Default(&t.PreferIP, "6")
	if len(t.LocalAddresses) > 0 {
		settings.Default(&t.LocalAddressPick, dial.PickRoundRobin)
	}
}

// validateNames checks the settings about names, which have their defaults.
func (t *Transport) validateNames() error {
	if _, err := t.dnsServers(); err != nil {
		return err
	}
	if _, err := t.staticHosts(); err != nil {
		return err
	}
	if _, ok := dial.Orders[t.PreferIP]; !ok {
		return fmt.Errorf("transport.prefer_ip: unknown value '%s': one of 4, 6, 4_only, 6_only", t.PreferIP)
	}
	_, err := t.localSources()
	return err
}

// dnsServers are the configured DNS servers, none where the system's resolver is
// to be asked.
func (t *Transport) dnsServers() ([]dnscache.Server, error) {
	if t.Resolver == nil {
		return nil, nil
	}
	if len(t.Resolver.Addresses) == 0 {
		return nil, errors.New("transport.resolver.addresses: empty; leave resolver out to ask the system's")
	}
	var servers []dnscache.Server
	for _, a := range t.Resolver.Addresses {
		s, err := dnscache.ParseServer(a)
		if err != nil {
			return nil, fmt.Errorf("transport.resolver.addresses: '%s': %w", plaintext.Printable(a), err)
		}
		servers = append(servers, s)
	}
	return servers, t.Resolver.validateTLS(servers)
}

func (r *Resolver) validateTLS(servers []dnscache.Server) error {
	switch {
	case r.TLS == nil:
		return nil
	case !secured(servers):
		return fmt.Errorf("transport.resolver.tls: %w", errUnsecured)
	case r.TLS.ServerName != "":
		return errors.New("transport.resolver.tls.server_name: the name of a certificate stands behind '#' of the server's address")
	case r.TLS.HandshakeTimeout != 0:
		return fmt.Errorf("transport.resolver.tls.handshake_timeout: a server has %s for an answer, the handshake included", dnscache.TryTimeout)
	}
	return reach.CheckTLS(r.TLS, "transport.resolver.tls", "a server")
}

// errUnsecured refuses TLS settings that nothing uses.
var errUnsecured = errors.New("no server is asked over TLS")

// secured reports whether one of the servers is asked over TLS.
func secured(servers []dnscache.Server) bool {
	return slices.ContainsFunc(servers, func(s dnscache.Server) bool {
		return s.Proto == dnscache.DoT || s.Proto == dnscache.DoH
	})
}

// staticHosts are the names with fixed addresses, in canonical form.
func (t *Transport) staticHosts() (map[string][]netip.Addr, error) {
	out := make(map[string][]netip.Addr, len(t.HostsOverride))
	for name, list := range t.HostsOverride {
		host, err := parseOverridden(name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("transport.hosts_override: %w", err)
		case out[host] != nil:
			return nil, fmt.Errorf("transport.hosts_override: '%s' stands there twice", host)
		case len(list) == 0:
			return nil, fmt.Errorf("transport.hosts_override: '%s' has no addresses", host)
		}
		for _, text := range list {
			a, err := dial.ParseAddress(text)
			if err != nil {
				return nil, fmt.Errorf("transport.hosts_override: '%s': '%s': %w", host, plaintext.Printable(text), err)
			}
			out[host] = append(out[host], a)
		}
	}
	return out, nil
}

// parseOverridden reads a name that gets addresses of its own, in canonical form.
func parseOverridden(name string) (string, error) {
	host, addr, err := target.ParseHost(name)
	switch {
	case err != nil:
		return "", fmt.Errorf("'%s': %w", plaintext.Printable(name), target.ReasonOf(err))
	case addr.IsValid():
		return "", fmt.Errorf("'%s' is an address; write a name", plaintext.Printable(name))
	}
	return host, nil
}

// localSources is where connections leave from, nil where it is the system's
// choice.
func (t *Transport) localSources() (*dial.Sources, error) {
	s, err := dial.NewSources(t.LocalAddresses, t.LocalAddressPick, t.Interface, dial.Orders[t.PreferIP])
	if err != nil {
		return nil, fmt.Errorf("transport.%w", err)
	}
	return s, nil
}

// warnAboutSources tells of local addresses and interfaces that this machine does
// not have now. It is no error: they may come later, or be bound to all the same
// (net.ipv4.ip_nonlocal_bind).
func (h *Handler) warnAboutSources(s *dial.Sources) {
	if s == nil {
		return
	}
	if _, err := net.InterfaceByName(s.Device); s.Device != "" && err != nil {
		h.logger.Warn("there is no such network interface now; connections fail until there is",
			zap.String("interface", s.Device), zap.Error(err))
	}
	for _, a := range slices.Concat(s.Addrs[:]...) {
		if !h.proxy.Direct.Self.IsLocal(a) {
			h.logger.Warn("local address is not on an interface of this machine; connections from it may fail",
				zap.String("address", a.String()))
		}
	}
}

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
	system := dnscache.System{Resolver: systemResolver, HostsFile: dnscache.SystemHostsFile()}
	cfg := dnscache.Config{
		Backend:       system,
		Static:        static,
		HostsFile:     system.HostsFile,
		TellHostsFile: tellHostsFile,
		MaxQuestions:  descriptors.Limit() / questionShare,
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

// tellHostsFile logs that the hosts file is gone or empty, or back. Handlers share what was
// read of it, over reloads: it is no handler's own logger.
func tellHostsFile(err error) {
	if errors.Is(err, dnscache.ErrHostsFileEmpty) {
		caddy.Log().Named("http.handlers.egress").Error(
			"the hosts file is empty now; the names of before stay. If that is meant, write a comment into it (a line that begins with #)",
			zap.String("file", dnscache.SystemHostsFile()))
		return
	}
	until := "the names of before stay"
	if errors.Is(err, fs.ErrNotExist) {
		until = "its names are asked for elsewhere"
	}
	filewatch.TellGone(caddy.Log().Named("http.handlers.egress"), dnscache.SystemHostsFile(), until, err)
}

// systemResolver is the resolver of the system. It leaves the reserve of descriptors to
// clients where Go speaks to the DNS servers itself.
var systemResolver = &net.Resolver{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
	nd := net.Dialer{Control: descriptors.KeepReserve}
	return nd.DialContext(ctx, network, address)
}}
