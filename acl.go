package egress

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/internal/target"
)

// This file decides which destinations may be reached. acl_subject.go parses
// what rules name, acl_ports.go port ranges, acl_special.go holds the addresses
// that are denied by default.

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
	// At least one is needed.
	Subjects []string `json:"subjects,omitempty"`

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
const noMatch = math.MaxInt

// accessList is the compiled form of rules and ports. Every subject has a
// position in the one ordered list; matching finds the lowest position for a
// name and for an address, and the lower of both decides. It is immutable, and
// its methods do not allocate.
type accessList struct {
	ports    []PortRange
	verdicts []*denial // by position; nil allows
	texts    []string  // by position, for people: "acl[2]: deny 10.0.0.0/8"

	// Positions of the subjects on names.
	all   int
	exact map[string]int
	below map[string]int // *.x, by x

	// Subjects on addresses, in order, and where the first of them stands that
	// is for every port, or for one.
	addrs       []addrRule
	firstAddr   int
	firstByPort map[uint16]int
}

type addrRule struct {
	pos    int
	prefix netip.Prefix
	port   uint16 // 0: every port
	// notMetadata leaves cloud metadata addresses out of the prefix.
	notMetadata bool
}

// newAccessList compiles rules and ports. Without ports, every port but 25
// (SMTP, where open proxies are abused to send mail) is allowed. Errors name
// the rule, counted from 1, and its subject.
func newAccessList(rules []ACLRule, ports []PortRange) (*accessList, error) {
	for i, p := range ports {
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("allowed port %d: %w", i+1, err)
		}
	}
	l := &accessList{
		ports:       slices.Clone(ports),
		all:         noMatch,
		exact:       make(map[string]int),
		below:       make(map[string]int),
		firstAddr:   noMatch,
		firstByPort: make(map[uint16]int),
	}
	for i, r := range rules {
		if len(r.Subjects) == 0 {
			return nil, fmt.Errorf("acl rule %d: no subjects; write at least one, or 'all'", i+1)
		}
		for _, text := range r.Subjects {
			s, err := parseSubject(text)
			if err != nil {
				return nil, fmt.Errorf("acl rule %d: subject '%s': %w", i+1, printableText(text), err)
			}
			l.add(s, text, r.Allow)
			l.texts = append(l.texts, ruleText(i, text, r.Allow))
		}
	}
	return l, nil
}

// add appends a subject to the list. An earlier one of the same name keeps its
// position, because the first match wins.
func (l *accessList) add(s subject, text string, allow bool) {
	pos := len(l.verdicts)
	var verdict *denial
	if !allow {
		verdict = &denial{denyHost, "deny " + text}
		if len(s.prefixes) > 0 {
			verdict.reason = denyAddress
		}
	}
	l.verdicts = append(l.verdicts, verdict)

	switch {
	case s.all:
		l.all = min(l.all, pos)
	case s.name != "" && s.wildcard:
		addFirst(l.below, s.name, pos)
	case s.name != "":
		addFirst(l.exact, s.name, pos)
	case s.port != 0:
		addFirst(l.firstByPort, s.port, pos)
	default:
		l.firstAddr = min(l.firstAddr, pos)
	}
	for _, p := range s.prefixes {
		l.addrs = append(l.addrs, addrRule{
			pos:    pos,
			prefix: p,
			port:   s.port,
			// Who denies `private` means all of it.
			notMetadata: s.private && allow,
		})
	}
}

func addFirst[K comparable](m map[K]int, key K, pos int) {
	if _, ok := m[key]; !ok {
		m[key] = pos
	}
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
	if addr, ok := l.firstByPort[t.Port]; ok && addr < name || l.firstAddr < name {
		return nil
	}
	return l.verdict(name)
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
func (l *accessList) decide(name int, ip netip.Addr, port uint16) *denial {
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
	ip = ip.Unmap().WithZone("")
	for _, r := range l.addrs {
		if r.port != 0 && r.port == port && r.prefix.Addr() == ip {
			return l.verdicts[r.pos] == nil
		}
	}
	return false
}

// verdict returns what the rule at pos decides, as an error that is nil when
// the rule allows or does not exist.
func (l *accessList) verdict(pos int) error {
	if pos == noMatch || l.verdicts[pos] == nil {
		return nil
	}
	return l.verdicts[pos]
}

// matchName returns the position of the first rule on names that matches t. Of
// those only `all` matches an address literal: digits are no labels.
func (l *accessList) matchName(t target.Target) int {
	first := l.all
	if t.IsAddr() {
		return first
	}
	if pos, ok := l.exact[t.Host]; ok {
		first = min(first, pos)
	}
	if len(l.below) == 0 {
		return first
	}
	for name, more := t.Host, true; more; _, name, more = strings.Cut(name, ".") {
		if pos, ok := l.below[name]; ok {
			first = min(first, pos)
		}
	}
	return first
}

// matchAddr returns the position of the first rule on addresses that matches.
func (l *accessList) matchAddr(ip netip.Addr, port uint16) int {
	for _, r := range l.addrs {
		if r.port != 0 && r.port != port || !r.prefix.Contains(ip) {
			continue
		}
		if r.notMetadata && specialAddr(ip) == denyMetadata {
			continue
		}
		return r.pos
	}
	return noMatch
}

// Interface guards
var _ error = (*denial)(nil)
