package egress

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/internal/target"
)

// This file contains the words for what access rules and matchers decide. The
// decisions are made elsewhere: here they are only named.

// ruleText is how a subject or a file of a rule is told, by the index of the rule in
// the JSON.
func ruleText(rule int, text string, allow bool) string {
	verb := "deny"
	if allow {
		verb = "allow"
	}
	return fmt.Sprintf("acl[%d]: %s%s", rule, verb, text)
}

// Words where no rule decides.
const (
	noRule         = "no rule matches it"
	rulesOnAddress = "rules on addresses decide"
)

// denied names what has refused: a rule, or a default.
func (l *accessList) denied(d *denial, port uint16) string {
	if i := slices.Index(l.verdicts, d); i >= 0 {
		return l.texts[i]
	}
	if d != errPortDenied {
		return d.rule
	}
	if len(l.ports) == 0 {
		return fmt.Sprintf("allowed_ports: %d is closed by default", port)
	}
	ports := make([]string, len(l.ports))
	for i, p := range l.ports {
		ports[i] = p.String()
	}
	return fmt.Sprintf("allowed_ports: %d is not in %s", port, strings.Join(ports, ", "))
}

// allowedName names the rule that lets a name pass before it is resolved, which
// checkTarget has found that one does.
func (l *accessList) allowedName(t target.Target) string {
	name := l.matchName(t)
	if l.needsAddr(t.Port, name) {
		return rulesOnAddress
	}
	return l.ruleAt(name)
}

// allowedUnresolved names the rule that lets a name pass that is not resolved here.
func (l *accessList) allowedUnresolved(t target.Target) string { return l.ruleAt(l.matchName(t)) }

// allowedAddr names the rule that lets an address pass, which checkAddr has found
// that one does. For an address that is denied by default that is the one on
// addresses which opens it.
func (l *accessList) allowedAddr(t target.Target, ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	addr := l.matchAddr(ip, t.Port)
	if specialAddr(ip) != nil {
		return l.ruleAt(addr)
	}
	return l.ruleAt(min(l.matchName(t), addr))
}

func (l *accessList) ruleAt(pos uint32) string {
	if pos == noMatch {
		return noRule
	}
	return l.texts[pos]
}

// reason says why err refuses, with the rule where one does.
func (l *accessList) reason(err error, port uint16) string {
	if d, ok := errors.AsType[*denial](err); ok {
		return l.denied(d, port)
	}
	return err.Error()
}

// toldMatchers are the matchers whose settings are told. Of others only the name is:
// fields of requests, expressions and modules of others may hold what is secret.
var toldMatchers = []string{"client_ip", "host", "method", "path", "protocol", "remote_ip"}

// matcherTexts are matcher sets as people may read them. A set that matches
// everything is empty.
func matcherTexts(sets caddyhttp.RawMatcherSets) []string {
	var texts []string
	for _, set := range sets {
		var words []string
		for _, name := range slices.Sorted(maps.Keys(set)) {
			words = append(words, name+matcherSettings(name, set[name]))
		}
		texts = append(texts, strings.Join(words, ", "))
	}
	return texts
}

func matcherSettings(name string, raw json.RawMessage) string {
	var fields map[string]json.RawMessage
	switch {
	case slices.Contains(toldMatchers, name):
		var compact any
		if json.Unmarshal(raw, &compact) != nil {
			return "" // loading it says what is wrong
		}
		text, err := json.Marshal(compact)
		if err != nil {
			return ""
		}
		return " " + string(text)
	case name == "header" && json.Unmarshal(raw, &fields) == nil:
		return " " + strings.Join(slices.Sorted(maps.Keys(fields)), " ")
	}
	return ""
}
