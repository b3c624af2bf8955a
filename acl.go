package egress

import "github.com/caddy-egress/egress/internal/acl"

// ACLRule allows or denies a list of destinations.
//
// The subjects of all rules form one ordered list, and the first that matches
// decides. It is matched against the name that was asked for together with each
// address it resolves to: a rule on an address refuses a name that leads there.
// A name that a rule refuses is not resolved, unless a rule before it allows
// addresses, to which the name may lead.
//
// Whatever the rules say about names, addresses that are not public stay out of
// reach: loopback, private, link-local, cloud metadata, multicast, reserved and
// the like, also inside IPv6 addresses that carry IPv4 ones. Such an address
// opens only if the first rule on addresses (an IP, a CIDR, an IP:port or
// `private`) that matches it allows it. What no rule matches is allowed.
type ACLRule struct {
	// What the rule is about. Each is one of:
	//
	// - `all`: every destination. It decides like a rule on names: to allow
	//   it opens no address that is denied by default.
	// - a host name, exactly: `example.com`
	// - a wildcard: `*.example.com` is example.com and every name below it
	// - an IP address: `10.0.0.1`, `2001:db8::1`. IPv4 is four decimal numbers
	//   without leading zeros; what resolvers read as an address besides, such
	//   as `10.1`, is an error.
	// - a CIDR: `10.0.0.0/8`
	// - an IP address and a port: `127.0.0.1:8080`, `[::1]:8080`. To allow it
	//   is also the only way to reach a port of Caddy itself.
	// - `private`: RFC 1918, fc00::/7 and 100.64.0.0/10. To allow it does not
	//   open cloud metadata addresses in there; they need an IP or a CIDR.
	//
	// A rule needs a subject or a file.
	Subjects []string `json:"subjects,omitempty"`

	// Paths of files with further subjects, one a line. Empty lines, and what
	// stands behind a `#`, do not count. The subjects of a file stand in the
	// list where the file does, behind those above. Whatever is no subject is
	// an error that refuses the configuration.
	//
	// When a file changes, all files are read again and the list is replaced,
	// without a reload of the configuration. If that fails, the rules stay as
	// they were, and an error is logged. An empty file has no subjects, which
	// is an error only where it is one that has become empty: a comment in it
	// says that this is meant. Relative paths begin at the working directory of
	// Caddy. Default: none.
	Files []string `json:"files,omitempty"`

	// Whether the subjects are allowed. Default: false (denied).
	Allow bool `json:"allow,omitempty"`
}

// PortRange is a range of ports, both ends included. In JSON it is a string
// ("443" or "1024-65535") or, for a single port, a number.
type PortRange = acl.PortRange

// rules are the access rules without the names that JSON has for their settings.
func (h *Handler) rules() []acl.Rule {
	rules := make([]acl.Rule, len(h.ACL))
	for i, r := range h.ACL {
		rules[i] = acl.Rule(r)
	}
	return rules
}
