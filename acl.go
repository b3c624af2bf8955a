package egress

import (
	"net/netip"

	"github.com/caddy-egress/egress/internal/firstmatch"
	"github.com/caddy-egress/egress/internal/target"
)

// This file decides which destinations may be reached. acl_subject.go parses
// what rules name, acl_file.go reads files of it, acl_build.go makes a list of it
// and acl_rules.go replaces the list when a file changes. acl_ports.go holds port
// ranges, acl_special.go the addresses that are denied by default.

// ACLRule allows or denies a list of destinations.
//
// The subjects of all rules form one ordered list, and the first that matches
// decides. It is matched against the name that was asked for together with each
// address it resolves to: a rule on an address refuses a name that leads there.
// Names that a rule refuses are not resolved.
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
	// - an IP address: `10.0.0.1`, `2001:db8::1`
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
	// is no error. Default: none.
	Files []string `json:"files,omitempty"`

	// Whether the subjects are allowed. Default: false (denied).
	Allow bool `json:"allow,omitempty"`
}

// denyReason is the part of a destination that a denial is about.
type denyReason string

const (
	denyPort    denyReason = "port"
	denyHost    denyReason = "host"    // the name, or `all`
	denyAddress denyReason = "address" // where the name leads, or a literal
)

// denial is the error for a destination that is not allowed. All of them are
// made at provision and shared, so that refusing costs nothing; errors hold the
// pointer.
type denial struct {
	reason denyReason
	rule   string // what decided: "deny 10.0.0.0/8", "default deny: loopback", "ports"
}

// Error is for logs. It tells about the configuration and is not for clients.
func (d *denial) Error() string {
	return "destination " + string(d.reason) + " not allowed (" + d.rule + ")"
}

// errInvalidAddress is for an address that no resolver returns.
var errInvalidAddress = &denial{denyAddress, "default deny: invalid address"}

// noMatch is the position of the match that there is not: behind every other.
const noMatch = firstmatch.None

// accessList is the compiled form of rules and ports. Every subject has a
// position in the one ordered list; matching finds the lowest position for a
// name and for an address, and the lower of both decides. It is immutable, and
// its methods do not allocate. acl_build.go makes it.
type accessList struct {
	ports    []PortRange
	verdicts []*denial // by position; nil allows
	files    int       // subjects that were read from files
	texts    []string  // by position, for people: "acl[2]: deny 10.0.0.0/8"

	// Subjects on names, and where `all` stands first.
	all   uint32
	names *firstmatch.Names

	// Subjects on addresses. An allowed `private` stands apart, because it
	// leaves cloud metadata addresses out.
	prefixes       *firstmatch.Prefixes
	sockets        map[netip.AddrPort]uint32
	allowedPrivate uint32

	// Where the first of them stands that is for every port, or for one.
	firstAddr   uint32
	firstByPort map[uint16]uint32
}

// checkTarget tells whether a request for t may go on; nil means it may, else
// the error is a *denial. Of a name it decides what can be decided without
// resolving it, so that a name that is refused does not leak into DNS: rules
// are walked in order up to the first on addresses, behind which everything
// depends on checkAddr. A literal address is decided here in full.
func (l *accessList) checkTarget(t target.Target) error {
	if t.IsAddr() {
		return l.checkAddr(t, t.Addr)
	}
	if !l.portAllowed(t.Port) {
		return errPortDenied
	}
	name := l.matchName(t)
	if l.needsAddr(t.Port, name) {
		return nil
	}
	return l.verdict(name)
}

// needsAddr reports whether a rule on addresses stands before the rule at name,
// which is thus not the one that decides.
func (l *accessList) needsAddr(port uint16, name uint32) bool {
	addr, ok := l.firstByPort[port]
	return ok && addr < name || l.firstAddr < name
}

// checkUnresolved is checkTarget for a name that will not be resolved here,
// because an upstream proxy does it. No address will be seen, so rules on
// addresses are passed over and those on names decide alone.
func (l *accessList) checkUnresolved(t target.Target) error {
	if t.IsAddr() {
		return l.checkAddr(t, t.Addr)
	}
	if !l.portAllowed(t.Port) {
		return errPortDenied
	}
	return l.verdict(l.matchName(t))
}

// checkAddr tells whether ip, to which t was resolved or which t is, may be
// dialed for t; nil means it may, else the error is a *denial. An address that
// carries others (see target.Carried) is allowed only if each of them is.
func (l *accessList) checkAddr(t target.Target, ip netip.Addr) error {
	if !ip.IsValid() {
		return errInvalidAddress
	}
	if !l.portAllowed(t.Port) {
		return errPortDenied
	}
	// A prefix contains no address that is IPv4-mapped or has a zone.
	ip = ip.Unmap().WithZone("")
	name := l.matchName(t)
	if d := l.decide(name, ip, t.Port); d != nil {
		return d
	}
	carried, n := target.Carried(ip)
	for _, c := range carried[:n] {
		if d := l.decide(name, c, t.Port); d != nil {
			return d
		}
	}
	return nil
}

// decide judges one address. name is the position of the rule that matched the
// name. A rule on names cannot lift a default denial, so that is asked after
// the rules, and answered by rules on addresses only.
func (l *accessList) decide(name uint32, ip netip.Addr, port uint16) *denial {
	addr := l.matchAddr(ip, port)
	if first := min(name, addr); first != noMatch && l.verdicts[first] != nil {
		return l.verdicts[first]
	}
	if special := specialAddr(ip); special != nil && (addr == noMatch || l.verdicts[addr] != nil) {
		return special
	}
	return nil
}

// opensSelf tells whether a rule allows exactly this address and port, which
// opens it even if it is Caddy's own. Whether it may be dialed at all remains
// checkAddr's to say.
func (l *accessList) opensSelf(ip netip.Addr, port uint16) bool {
	pos, ok := l.sockets[netip.AddrPortFrom(ip.Unmap().WithZone(""), port)]
	return ok && l.verdicts[pos] == nil
}

// verdict returns what the rule at pos decides, as an error that is nil when
// the rule allows or does not exist.
func (l *accessList) verdict(pos uint32) error {
	if pos == noMatch || l.verdicts[pos] == nil {
		return nil
	}
	return l.verdicts[pos]
}

// matchName returns the position of the first rule on names that matches t. Of
// those only `all` matches an address literal: digits are no labels.
func (l *accessList) matchName(t target.Target) uint32 {
	if t.IsAddr() {
		return l.all
	}
	return min(l.all, l.names.First(t.Host))
}

// matchAddr returns the position of the first rule on addresses that matches.
func (l *accessList) matchAddr(ip netip.Addr, port uint16) uint32 {
	first := l.prefixes.First(ip)
	if len(l.sockets) > 0 {
		if pos, ok := l.sockets[netip.AddrPortFrom(ip, port)]; ok {
			first = min(first, pos)
		}
	}
	if l.allowedPrivate < first && isPrivate(ip) && specialAddr(ip) != denyMetadata {
		first = l.allowedPrivate
	}
	return first
}

// Interface guards
var _ error = (*denial)(nil)
