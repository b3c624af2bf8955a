package upstreams

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/exchange"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/reach"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains how the settings of an upstream and those of its group become one.

// specs completes the upstreams of a group. Those of files and sources come later, from
// several goroutines: by then all that they need was made.
type specs struct {
	ctx   caddy.Context
	group *Group
	repl  *caddy.Replacer
	tls   map[*reverseproxy.TLSConfig]*upstream.TLS // loading modules empties their JSON, so each is made once
}

func newSpecs(ctx caddy.Context, g *Group) (*specs, error) {
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
		written, err := settings.ReplaceText(u.URL, s.repl)
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
	if err := u.checkSuits(addr); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	settings.Default(&spec.Weight, 1)
	settings.Default(&spec.MaxPending, 128)
	if spec.ProxyProtocol != "" {
		settings.Default(&spec.MaxTunnelsPerConn, 1)
	}
	settings.Default(&spec.MaxTunnelsPerConn, 100)
	if err := cmp.Or(u.checkShared(), validateSpec(spec, s.tlsOf(u, addr))); err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	return spec, nil
}

// login finds the credentials: those in the URL, those beside it, those of the
// group.
func (s *specs) login(u *Upstream, addr upstream.Address) (*upstream.Login, error) {
	c := u.Credentials
	if addr.User != nil {
		// As they stand: the placeholders of a URL were replaced in the whole,
		// and what is in a list was perhaps written by somebody else.
		c = urlLogin(addr)
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
		written, err := json.Marshal(c)
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
		made.ID = string(written) + shared.TLSIdentity(made.Config)
		made.HandshakeTimeout = time.Duration(c.HandshakeTimeout)
	}
	made.Config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	s.tls[c] = made
	return made, nil
}

// maxStandby bounds the connections that are dialed ahead for an upstream.
const maxStandby = 1000

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
	case s.Weight < 1 || s.Weight > upstream.MaxWeight:
		return fmt.Errorf("weight: %d is not between 1 and %d", s.Weight, upstream.MaxWeight)
	case s.Standby > maxStandby:
		return fmt.Errorf("standby: %d is more than %d", s.Standby, maxStandby)
	case s.ProxyProtocol != "" && s.ProxyProtocol != "v1" && s.ProxyProtocol != "v2":
		return fmt.Errorf("proxy_protocol: '%s' is neither v1 nor v2", s.ProxyProtocol)
	}
	return validateReach(s, tlsSettings)
}

// validateReach checks what concerns the way to the upstream.
func validateReach(s *upstream.Spec, tlsSettings *reverseproxy.TLSConfig) error {
	if err := canonicalHeader(s); err != nil {
		return err
	}
	if _, err := new(dial.Dialer).Leaving(s.PreferIP, s.LocalAddresses, s.LocalAddressPick, s.Interface); err != nil {
		return err
	}
	if tlsSettings != nil {
		return reach.CheckTLS(tlsSettings, "tls", "the URL")
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
		if err := checkField(name, values...); err != nil {
			return fmt.Errorf("header: %w", err)
		}
		for _, v := range values {
			canonical.Add(name, v)
		}
	}
	s.Header = canonical
	return nil
}

// checkField refuses a field of a request that the operator cannot set to the values, which
// may be secrets.
func checkField(name string, values ...string) error {
	if !httpguts.ValidHeaderFieldName(name) || !exchange.Settable(name) {
		return fmt.Errorf("'%s' cannot be set", plaintext.Escaped(name))
	}
	for _, v := range values {
		if !httpguts.ValidHeaderFieldValue(v) {
			return fmt.Errorf("not a value for the field %s", name)
		}
	}
	return nil
}
