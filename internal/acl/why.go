package acl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/internal/target"
)

// This file contains the words for what access rules and matchers decide. The
// decisions are made elsewhere: here they are only named.

// ruleText is how a subject or a file of a rule is told, by the index of the rule in
// the JSON.
func ruleText(rule int, text string, allow bool) string {
	return fmt.Sprintf("acl[%d]: %s%s", rule, verb(allow), text)
}

func verb(allow bool) string {
	if allow {
		return "allow"
	}
	return "deny"
}

// Words where no rule decides.
const (
	noRule         = "no rule matches it"
	rulesOnAddress = "rules on addresses decide"
)

// Denied names what has refused: a rule, or a default.
func (l *List) Denied(d *Denial, port uint16) string {
	if i := slices.Index(l.verdicts, d); i >= 0 {
		return l.texts[i]
	}
	if d != ErrPortDenied {
		return d.Rule
	}
	if len(l.ports) == 0 {
		return fmt.Sprintf("ports (allowed_ports in JSON): %d is closed by default", port)
	}
	ports := make([]string, len(l.ports))
	for i, p := range l.ports {
		ports[i] = p.String()
	}
	return fmt.Sprintf("ports (allowed_ports in JSON): %d is not in %s", port, strings.Join(ports, ", "))
}

// AllowedName names the rule that lets a name pass before it is resolved, which
// CheckTarget has found that one does.
func (l *List) AllowedName(t target.Target) string {
	name := l.matchName(t)
	if l.onAddrs.before(name, t.Port) {
		return rulesOnAddress
	}
	return l.ruleAt(name)
}

// AllowedUnresolved names the rule that lets a name pass that is not resolved here.
func (l *List) AllowedUnresolved(t target.Target) string { return l.ruleAt(l.matchName(t)) }

// AllowedAddr names the rule that lets an address pass, which CheckAddr has found
// that one does. For an address that is denied by default that is the one on
// addresses which opens it.
func (l *List) AllowedAddr(t target.Target, ip netip.Addr) string {
	return l.ruleAt(l.allowedAddr(t, ip))
}

func (l *List) allowedAddr(t target.Target, ip netip.Addr) uint32 {
	ip = ip.Unmap().WithZone("")
	addr := l.matchAddr(ip, t.Port)
	if specialAddr(ip) != nil {
		return addr
	}
	return min(l.matchName(t), addr)
}

func (l *List) ruleAt(pos uint32) string {
	if pos == noMatch {
		return noRule
	}
	return l.texts[pos]
}

// Reason says why err refuses, with the rule where one does.
func (l *List) Reason(err error, port uint16) string {
	if d, ok := errors.AsType[*Denial](err); ok {
		return l.Denied(d, port)
	}
	return err.Error()
}
