package acl

import (
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/failure"

	"github.com/caddy-egress/egress/internal/firstmatch"
	"github.com/caddy-egress/egress/internal/target"
)

// Rule allows or denies a list of destinations: the subjects that it names, in their
// order, and behind them those of its files.
type Rule struct {
	Subjects []string
	Files    []string
	Allow    bool
}

// denyReason is the part of a destination that a denial is about.
type denyReason string

const (
	denyPort    denyReason = "port"
	DenyHost    denyReason = "host"    // the name, or `all`
	DenyAddress denyReason = "address" // where the name leads, or a literal
)

// Denial is the error for a destination that is not allowed. All of them are
// made at provision and shared, so that refusing costs nothing; errors hold the
// pointer.
type Denial struct {
	Reason denyReason
	Rule   string // what decided: "deny 10.0.0.0/8", "default deny: loopback", "ports"

	hits *hits // of the rule; nil where none of the list has decided
}

// Failure is what it means for the request.
func (d *Denial) Failure() *failure.Failure {
	if d.Reason == DenyAddress {
		return failure.DeniedAddress
	}
	return failure.Denied
}

// Error is for logs. It tells about the configuration and is not for clients.
func (d *Denial) Error() string {
	return "destination " + string(d.Reason) + " not allowed (" + d.Rule + ")"
}

// errInvalidAddress is for an address that no resolver returns.
var errInvalidAddress = &Denial{Reason: DenyAddress, Rule: "default deny: invalid address"}

// defaultDenials are all that refuse without a rule.
var defaultDenials = [...]*Denial{
	ErrPortDenied, errInvalidAddress, denyUnspecified, DenyLoopback, DenyPrivate, denyLinkLocal, denyMetadata,
	denyMulticast, denyBroadcast, denyBenchmark, denyDocumentation, denyReserved,
}

// noMatch is the position of the match that there is not: behind every other.
const noMatch = firstmatch.None

// List is the compiled form of rules and ports. Every subject has a
// position in the one ordered list; matching finds the lowest position for a
// name and for an address, and the lower of both decides. It is immutable, and
// its methods do not allocate. build.go makes it.
type List struct {
	ports    []PortRange
	verdicts []*Denial     // by position; nil allows
	files    int           // subjects that were read from files
	blank    []string      // files without even a comment
	texts    []string      // by position, for people: "acl[2]: deny 10.0.0.0/8"
	hits     []*hits       // by position
	read     map[int]*File // by the first position: the files that subjects were read from
	made     time.Time

	// Subjects on names, and where `all` stands first.
	all   uint32
	names *firstmatch.Names

	// Subjects on addresses. An allowed `private` stands apart, because it
	// leaves cloud metadata addresses out.
	prefixes       *firstmatch.Prefixes
	sockets        map[netip.AddrPort]uint32
	allowedPrivate uint32

	// Where the first of them stands, and the first that allows.
	onAddrs, opens firstByPort
}

// firstByPort is where the first of some rules stands: that is for every port, and those
// for one.
type firstByPort struct {
	any  uint32
	only map[uint16]uint32
}

// before reports whether it stands before the rule at pos, for a port.
func (f *firstByPort) before(pos uint32, port uint16) bool {
	only, ok := f.only[port]
	return ok && only < pos || f.any < pos
}

// CheckTarget tells whether a request for t may go on; nil means it may, else
// the error is a *denial. Of a name it decides what can be decided without
// resolving it, so that a name that is refused does not leak into DNS: it is not,
// unless a rule before that allows addresses, to which it could lead. A literal
// address is decided here in full.
func (l *List) CheckTarget(t target.Target) error {
	if t.IsAddr() {
		return l.CheckAddr(t, t.Addr)
	}
	if !l.portAllowed(t.Port) {
		return ErrPortDenied
	}
	name := l.matchName(t)
	if l.opens.before(name, t.Port) {
		return nil
	}
	return l.verdict(name)
}

// CheckUnresolved is CheckTarget for a name that will not be resolved here,
// because an upstream proxy does it. No address will be seen, so rules on
// addresses are passed over and those on names decide alone.
func (l *List) CheckUnresolved(t target.Target) error {
	if t.IsAddr() {
		return l.CheckAddr(t, t.Addr)
	}
	if !l.portAllowed(t.Port) {
		return ErrPortDenied
	}
	return l.verdict(l.matchName(t))
}

// CheckAddr tells whether ip, to which t was resolved or which t is, may be
// dialed for t; nil means it may, else the error is a *denial. An address that
// carries others (see target.Carried) is allowed only if each of them is.
func (l *List) CheckAddr(t target.Target, ip netip.Addr) error {
	if !ip.IsValid() {
		return errInvalidAddress
	}
	if !l.portAllowed(t.Port) {
		return ErrPortDenied
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
func (l *List) decide(name uint32, ip netip.Addr, port uint16) *Denial {
	addr := l.matchAddr(ip, port)
	if first := min(name, addr); first != noMatch && l.verdicts[first] != nil {
		return l.verdicts[first]
	}
	if special := specialAddr(ip); special != nil && (addr == noMatch || l.verdicts[addr] != nil) {
		return special
	}
	return nil
}

// OpensSelf tells whether a rule allows exactly this address and port, which
// opens it even if it is Caddy's own. Whether it may be dialed at all remains
// CheckAddr's to say.
func (l *List) OpensSelf(ip netip.Addr, port uint16) bool {
	pos, ok := l.sockets[netip.AddrPortFrom(ip.Unmap().WithZone(""), port)]
	return ok && l.verdicts[pos] == nil
}

// verdict returns what the rule at pos decides, as an error that is nil when
// the rule allows or does not exist.
func (l *List) verdict(pos uint32) error {
	if pos == noMatch || l.verdicts[pos] == nil {
		return nil
	}
	return l.verdicts[pos]
}

// matchName returns the position of the first rule on names that matches t. Of
// those only `all` matches an address literal: digits are no labels.
func (l *List) matchName(t target.Target) uint32 {
	if t.IsAddr() {
		return l.all
	}
	return min(l.all, l.names.First(t.Host))
}

// matchAddr returns the position of the first rule on addresses that matches.
func (l *List) matchAddr(ip netip.Addr, port uint16) uint32 {
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
var _ error = (*Denial)(nil)
