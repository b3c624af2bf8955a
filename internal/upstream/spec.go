package upstream

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"reflect"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/shared"
)

// Spec is an upstream with everything filled in that its own settings leave to its group.
// Two specs with the same identity are the same upstream. The settings are those of its
// configuration; where a count has a limit, -1 means off.
type Spec struct {
	Addr  Address
	Login *Login // nil for none
	TLS   *TLS   // nil unless the scheme is https

	Weight            int    // its share among those of its priority, from 1
	Priority          int    // of its tier: lower ones are used first
	MaxConns          int    // for exchanges; below 1 for no limit
	MaxPending        int    // exchanges that wait for one of them; below 1: nobody waits
	MaxTunnels        int    // through the upstream; below 1 for no limit
	MaxTunnelsPerConn int    // over one HTTP/2 connection
	Standby           int    // connections that are dialed ahead
	ProxyProtocol     string // v1 or v2; empty for none

	LocalAddresses   []string // that it is dialed from
	LocalAddressPick string   // round_robin or user_hash
	Interface        string   // that it is dialed by
	PreferIP         string   // 4, 6, 4_only or 6_only

	Header http.Header // in canonical form
}

// MaxWeight bounds Spec.Weight, so that sums of weights stay small numbers.
const MaxWeight = 10_000

// Login is a user with their password.
type Login struct{ User, Password string }

// TLS is a TLS configuration of the operator as crypto/tls takes it.
type TLS struct {
	ID               string // of the settings, and of what was in the files that they name
	Config           *tls.Config
	HandshakeTimeout time.Duration // 0 for the default
}

// user is who logs in; empty for nobody.
func (s *Spec) user() string {
	if s.Login == nil {
		return ""
	}
	return s.Login.User
}

// HasSource reports whether the upstream says where it is dialed from.
func (s *Spec) HasSource() bool { return len(s.LocalAddresses) > 0 || s.Interface != "" }

// same reports whether nothing about an upstream has changed.
func (s *Spec) same(t *Spec) bool { return reflect.DeepEqual(s, t) }

// healthID names the health of an upstream in a group.
func (s *Spec) healthID(group string) string {
	return shared.Digest(group, s.Addr.String(), s.Login, s.ProxyProtocol)
}

// connsID names its connections. transport are the settings by which origins are
// reached, most of which hold for upstreams as well.
func (s *Spec) connsID(group, transport string) string {
	tlsID := ""
	if s.TLS != nil {
		tlsID = s.TLS.ID
	}
	return shared.Digest(group, transport, s.Addr.String(), s.Login, s.ProxyProtocol, s.LocalAddresses, s.LocalAddressPick, s.Interface, s.PreferIP,
		s.Header, s.MaxConns, s.MaxPending, s.MaxTunnelsPerConn, s.Standby, tlsID)
}

// ProxyFields are what the upstream is to be told beside a request.
func (s *Spec) proxyFields() (fields []h1.Field) {
	if c := s.Login; c != nil {
		fields = append(fields, h1.Field{
			Name:  "Proxy-Authorization",
			Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(c.User+":"+c.Password)),
		})
	}
	for name, values := range s.Header {
		for _, v := range values {
			fields = append(fields, h1.Field{Name: name, Value: v})
		}
	}
	return fields
}
