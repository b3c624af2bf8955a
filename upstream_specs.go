package egress

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains how the settings of an upstream and those of its group become one.

// specs completes the upstreams of a group. Those of files and sources come later, from
// several goroutines: by then all that they need was made.
type specs struct {
	ctx   caddy.Context
	group *UpstreamGroup
	repl  *caddy.Replacer
	tls   map[*reverseproxy.TLSConfig]*upstream.TLS // loading modules empties their JSON, so each is made once
}

func newSpecs(ctx caddy.Context, g *UpstreamGroup) (*specs, error) {
	s := &specs{ctx: ctx, group: g, repl: caddy.NewReplacer(), tls: make(map[*reverseproxy.TLSConfig]*upstream.TLS)}
	if _, err := s.makeTLS(g.TLS); err != nil {
		return nil, err
	}
	return s, nil
}

// all completes the upstreams that stand in the configuration.
func (s *specs) all() ([]*upstream.Spec, error) {
	out := make([]*upstream.Spec, len(s.group.Upstreams))
	for i, u := range s.group.Upstreams {
		if u == nil {
			return nil, fmt.Errorf("upstreams[%d]: is null", i)
		}
		written, err := s.repl.ReplaceOrErr(u.URL, true, true)
		if err != nil {
			return nil, fmt.Errorf("upstreams[%d]: url: %w", i, err)
		}
		addr, err := upstream.ParseURL(written, s.group.Scheme)
		if err != nil {
			return nil, fmt.Errorf("upstreams[%d]: url: %w", i, err)
		}
		if out[i], err = s.complete(u, addr); err != nil {
			return nil, fmt.Errorf("upstreams[%d]: %w", i, err)
		}
	}
	for i, u := range s.group.Upstreams {
		if err := s.addTLS(out[i], u); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// at completes an upstream whose address has been read.
func (s *specs) at(u *Upstream, addr upstream.Address) (*upstream.Spec, error) {
	spec, err := s.complete(u, addr)
	if err != nil {
		return nil, err
	}
	return spec, s.addTLS(spec, u)
}

// complete is at without TLS.
func (s *specs) complete(u *Upstream, addr upstream.Address) (*upstream.Spec, error) {
	spec := &upstream.Spec{
		Addr: addr, Weight: u.Weight, Priority: u.Priority,
		MaxConns: u.MaxConns, MaxPending: u.MaxPending, MaxTunnels: u.MaxTunnels,
		MaxTunnelsPerConn: u.MaxTunnelsPerConn, Standby: u.Standby, ProxyProtocol: u.ProxyProtocol,
		LocalAddresses: u.LocalAddresses, LocalAddressPick: u.LocalAddressPick,
		Interface: u.Interface, PreferIP: u.PreferIP, Header: u.Header,
	}
	var err error
	if spec.Login, err = s.login(u, addr); err != nil {
		return nil, fmt.Errorf("%s: credentials: %w", addr, err)
	}
	spec.Addr.User = nil
	if addr.Scheme != upstream.HTTPS && u.TLS != nil {
		return nil, fmt.Errorf("%s: tls: the scheme is not https", addr)
	}
	setDefault(&spec.Weight, 1)
	setDefault(&spec.MaxPending, 128)
	if spec.ProxyProtocol != "" {
		setDefault(&spec.MaxTunnelsPerConn, 1)
	}
	setDefault(&spec.MaxTunnelsPerConn, 100)
	if err := validateSpec(spec, s.tlsOf(u, addr)); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return spec, nil
}

// login finds the credentials: those in the URL, those beside it, those of the
// group.
func (s *specs) login(u *Upstream, addr upstream.Address) (*upstream.Login, error) {
	c := u.Credentials
	if addr.User != nil {
		if c != nil {
			return nil, errors.New("they stand in the URL as well")
		}
		// As they stand: the placeholders of a URL were replaced in the whole,
		// and what is in a list was perhaps written by somebody else.
		password, _ := addr.User.Password()
		c = &Credentials{addr.User.Username(), password}
		return &upstream.Login{User: c.Username, Password: c.Password}, c.check()
	}
	if c == nil {
		c = s.group.Credentials
	}
	if c == nil {
		return nil, nil
	}
	c, err := c.resolve(s.repl)
	if err != nil {
		return nil, err
	}
	return &upstream.Login{User: c.Username, Password: c.Password}, nil
}

// tlsOf are the settings of TLS towards an upstream; nil where there are none, and where
// it does not speak TLS.
func (s *specs) tlsOf(u *Upstream, addr upstream.Address) *reverseproxy.TLSConfig {
	if addr.Scheme != upstream.HTTPS {
		return nil
	}
	if u.TLS != nil {
		return u.TLS
	}
	return s.group.TLS
}

func (s *specs) addTLS(spec *upstream.Spec, u *Upstream) (err error) {
	if spec.Addr.Scheme != upstream.HTTPS {
		return nil
	}
	if spec.TLS, err = s.makeTLS(s.tlsOf(u, spec.Addr)); err != nil {
		return fmt.Errorf("%s: %w", spec.Addr, err)
	}
	return nil
}

// makeTLS makes a configuration of TLS, which may be nil for the default.
func (s *specs) makeTLS(c *reverseproxy.TLSConfig) (*upstream.TLS, error) {
	if made := s.tls[c]; made != nil {
		return made, nil
	}
	made := &upstream.TLS{Config: new(tls.Config)}
	if c != nil {
		settings, err := json.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		config, err := c.MakeTLSClientConfig(s.ctx)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		if config != nil {
			made.Config = config
		}
		made.ID = string(settings) + shared.TLSIdentity(made.Config)
		made.HandshakeTimeout = time.Duration(c.HandshakeTimeout)
	}
	made.Config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	s.tls[c] = made
	return made, nil
}

// maxWeight bounds the weights, so that sums of them stay small numbers.
const maxWeight = 10_000

func validateSpec(s *upstream.Spec, tlsSettings *reverseproxy.TLSConfig) error {
	for _, n := range []struct {
		name  string
		value int
		off   bool
	}{
		{"max_conns", s.MaxConns, true},
		{"max_pending", s.MaxPending, true},
		{"max_tunnels", s.MaxTunnels, true},
		{"max_tunnels_per_conn", s.MaxTunnelsPerConn, false},
		{"standby", s.Standby, false},
		{"priority", s.Priority, false},
	} {
		switch {
		case n.value < 0 && !n.off:
			return fmt.Errorf("%s: %d is below 0", n.name, n.value)
		case n.value < words.NoLimit:
			return fmt.Errorf("%s: %d is below 1 (-1 is off)", n.name, n.value)
		}
	}
	switch {
	case s.Weight < 1 || s.Weight > maxWeight:
		return fmt.Errorf("weight: %d is not between 1 and %d", s.Weight, maxWeight)
	case s.Standby > 1000:
		return fmt.Errorf("standby: %d is more than 1000", s.Standby)
	case s.ProxyProtocol != "" && s.ProxyProtocol != "v1" && s.ProxyProtocol != "v2":
		return fmt.Errorf("proxy_protocol: '%s' is neither v1 nor v2", s.ProxyProtocol)
	case s.ProxyProtocol != "" && s.Standby > 0:
		return errors.New("standby: a connection that is dialed ahead cannot carry the address of its client (proxy_protocol)")
	case s.ProxyProtocol != "" && s.MaxTunnelsPerConn > 1:
		return errors.New("max_tunnels_per_conn: with proxy_protocol a connection belongs to one client")
	}
	return validateReach(s, tlsSettings)
}

// validateReach checks what concerns the way to the upstream.
func validateReach(s *upstream.Spec, tlsSettings *reverseproxy.TLSConfig) error {
	socks := s.Addr.Scheme == upstream.SOCKS5 || s.Addr.Scheme == upstream.SOCKS5H
	if socks && len(s.Header) > 0 {
		return errors.New("header: SOCKS has no header fields")
	}
	if err := canonicalHeader(s); err != nil {
		return err
	}
	if s.Addr.Socket != "" {
		switch {
		case len(s.LocalAddresses) > 0 || s.LocalAddressPick != "":
			return errors.New("local_addresses: a unix socket has none")
		case s.Interface != "":
			return errors.New("interface: a unix socket has none")
		case s.PreferIP != "":
			return errors.New("prefer_ip: a unix socket has no IP address")
		}
	}
	if _, err := new(dial.Dialer).Leaving(s.PreferIP, s.LocalAddresses, s.LocalAddressPick, s.Interface); err != nil {
		return err
	}
	if tlsSettings != nil {
		return checkTLSSettings(tlsSettings, "tls", "the URL")
	}
	return nil
}

// canonicalHeader checks the fields, and makes their names canonical in a copy.
func canonicalHeader(s *upstream.Spec) error {
	if len(s.Header) == 0 {
		return nil
	}
	canonical := make(http.Header, len(s.Header))
	for name, values := range s.Header {
		if !httpguts.ValidHeaderFieldName(name) || !settable(name) {
			return fmt.Errorf("header: '%s' cannot be set", plaintext.Escaped(name))
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("header: not a value for the field %s", name)
			}
			canonical.Add(name, v)
		}
	}
	s.Header = canonical
	return nil
}
