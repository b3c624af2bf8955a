package selection

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the policies that keep a client, a user, a destination, …
// on one member.

func init() {
	caddy.RegisterModule(ClientIPHash{})
	caddy.RegisterModule(UserHash{})
	caddy.RegisterModule(DestinationHash{})
	caddy.RegisterModule(new(HeaderHash))
	caddy.RegisterModule(new(CookieHash))
}

// ClientIPHash is a policy that keeps the requests of one client
// address (Caddy's client IP, so that trusted proxies in front are seen through)
// on one member.
//
// This is weighted rendezvous hashing with bounded load, like all policies that
// hash: a key is always on the same member, after a reload and on other machines
// too. A member that goes gives away its own keys and no others, and one that
// comes takes its share of the keys of each. Slow start and overload do the same
// to a part of the keys. While a member has more than 32, and more than 1.25
// times its share of all exchanges and tunnels in flight, its keys go to the next
// in line of each. Clients without an address (on a unix socket) count as one.
type ClientIPHash struct{}

// CaddyModule returns the Caddy module information.
func (ClientIPHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".client_ip_hash",
		New: func() caddy.Module { return new(ClientIPHash) },
	}
}

// Select implements Policy.
func (ClientIPHash) Select(s *Choice) int {
	return rendezvous(s, stableHash(fnvOffset, s.ClientIP))
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy client_ip_hash
func (*ClientIPHash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalBare(d)
}

// UserHash is a policy that keeps one session of a user on one member,
// where sessions are told apart, else all requests of the user, else (where
// nobody logged in) all requests of the client address. It hashes as
// client_ip_hash does.
type UserHash struct{}

// CaddyModule returns the Caddy module information.
func (UserHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".user_hash",
		New: func() caddy.Module { return new(UserHash) },
	}
}

// Select implements Policy.
func (UserHash) Select(s *Choice) int {
	if s.Session == "" && s.User == "" {
		return rendezvous(s, stableHash(fnvOffset, s.ClientIP))
	}
	// Users who count their sessions from 1 are not to meet on one member.
	// No user name holds the separator.
	key := stableHash(stableHash(fnvOffset, s.User), "\x00")
	return rendezvous(s, stableHash(key, s.Session))
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy user_hash
func (*UserHash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return unmarshalBare(d) }

// DestinationHash is a policy that keeps the requests for one
// destination, a host and port, on one member: for upstream proxies with a
// cache. It hashes as client_ip_hash does.
type DestinationHash struct{}

// CaddyModule returns the Caddy module information.
func (DestinationHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".destination_hash",
		New: func() caddy.Module { return new(DestinationHash) },
	}
}

// Select implements Policy.
func (DestinationHash) Select(s *Choice) int {
	return rendezvous(s, stableHash(fnvOffset, s.Destination))
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy destination_hash
func (*DestinationHash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalBare(d)
}

// HeaderHash is a policy that keeps the requests with one value in a
// header field on one member. It hashes as client_ip_hash does. Of a field that
// comes more than once, the first counts. A tunnel has the fields of its CONNECT
// request only.
type HeaderHash struct {
	// The name of the header field (RFC 9110 §5.1). It is required; what is
	// not a token is an error.
	Field string `json:"field,omitempty"`

	// The policy for requests without the field, or with nothing in it.
	// Default: `random`.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=http.egress.selection_policies inline_key=policy"`

	name     string // of the field, canonical
	fallback Policy
}

// CaddyModule returns the Caddy module information.
func (*HeaderHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".header",
		New: func() caddy.Module { return new(HeaderHash) },
	}
}

// Provision implements caddy.Provisioner.
func (p *HeaderHash) Provision(ctx caddy.Context) (err error) {
	p.name = http.CanonicalHeaderKey(p.Field)
	p.fallback, err = loadFallback(ctx, p, p.FallbackRaw)
	return err
}

func loadFallback(ctx caddy.Context, structPointer any, raw json.RawMessage) (Policy, error) {
	policy, err := Load(ctx, structPointer, "FallbackRaw", raw, new(Random))
	if err != nil {
		return nil, fmt.Errorf("loading fallback selection policy: %w", err)
	}
	return policy, nil
}

// Validate implements caddy.Validator.
func (p *HeaderHash) Validate() error { return checkToken("field", p.Field) }

func checkToken(option, value string) error {
	switch {
	case value == "":
		return fmt.Errorf("%s is required", option)
	case !plaintext.IsToken(value):
		return fmt.Errorf("bad %s '%s': not a token (RFC 9110 §5.6.2)", option, plaintext.Escaped(value))
	}
	return nil
}

// Select implements Policy.
func (p *HeaderHash) Select(s *Choice) int {
	return byValue(s, p.Hashed(s.Request), p.fallback)
}

// Hashed is what the hash is of.
func (p *HeaderHash) Hashed(r *http.Request) string {
	if values := r.Header[p.name]; len(values) > 0 {
		return values[0]
	}
	if p.name == "Host" { // net/http keeps it elsewhere
		return r.Host
	}
	return ""
}

func byValue(s *Choice, value string, fallback Policy) int {
	if value == "" {
		return fallback.Select(s)
	}
	return rendezvous(s, stableHash(fnvOffset, value))
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy header <field> {
//		fallback <policy>
//	}
func (p *HeaderHash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalKeyed(d, "field", &p.Field, &p.FallbackRaw)
}

// CookieHash is a policy that keeps the requests with one value in a
// cookie on one member. It hashes as client_ip_hash does. The cookie is one of
// the origin's: unlike in reverse_proxy, none is ever set. Requests inside a
// tunnel cannot be seen, so tunnels go to the fallback.
type CookieHash struct {
	// The name of the cookie (RFC 6265 §4.1.1). It is required; what is not a
	// token is an error.
	Name string `json:"name,omitempty"`

	// The policy for requests without the cookie, or with nothing in it.
	// Default: `random`.
	FallbackRaw json.RawMessage `json:"fallback,omitempty" caddy:"namespace=http.egress.selection_policies inline_key=policy"`

	fallback Policy
}

// CaddyModule returns the Caddy module information.
func (*CookieHash) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  policyNamespace + ".cookie",
		New: func() caddy.Module { return new(CookieHash) },
	}
}

// Provision implements caddy.Provisioner.
func (p *CookieHash) Provision(ctx caddy.Context) (err error) {
	p.fallback, err = loadFallback(ctx, p, p.FallbackRaw)
	return err
}

// Validate implements caddy.Validator.
func (p *CookieHash) Validate() error { return checkToken("name", p.Name) }

// Select implements Policy.
func (p *CookieHash) Select(s *Choice) int {
	return byValue(s, cookieValue(s.Request.Header, p.Name), p.fallback)
}

// cookieValue returns the value of the first cookie of that name, as
// http.Request.Cookie does but without making a cookie of it.
func cookieValue(header http.Header, name string) string {
	for _, line := range header["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			key, value, ok := strings.Cut(textproto.TrimString(pair), "=")
			if !ok || textproto.TrimString(key) != name {
				continue
			}
			value = textproto.TrimString(value)
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}
			return value
		}
	}
	return ""
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens. Syntax:
//
//	lb_policy cookie <name> {
//		fallback <policy>
//	}
func (p *CookieHash) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return unmarshalKeyed(d, "name", &p.Name, &p.FallbackRaw)
}

// Interface guards
var (
	_ Policy = (*ClientIPHash)(nil)
	_ Policy = (*UserHash)(nil)
	_ Policy = (*DestinationHash)(nil)
	_ Policy = (*HeaderHash)(nil)
	_ Policy = (*CookieHash)(nil)

	_ caddy.Provisioner = (*HeaderHash)(nil)
	_ caddy.Provisioner = (*CookieHash)(nil)

	_ caddy.Validator = (*HeaderHash)(nil)
	_ caddy.Validator = (*CookieHash)(nil)

	_ caddyfile.Unmarshaler = (*ClientIPHash)(nil)
	_ caddyfile.Unmarshaler = (*UserHash)(nil)
	_ caddyfile.Unmarshaler = (*DestinationHash)(nil)
	_ caddyfile.Unmarshaler = (*HeaderHash)(nil)
	_ caddyfile.Unmarshaler = (*CookieHash)(nil)
)
