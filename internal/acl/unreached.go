package acl

import (
	"net/netip"
	"strings"

	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how subjects are found that never decide.

// Unreached is a subject that never decides: one before it matches all that it does, and
// says the opposite. Both are as explain has them: "acl[1]: allow a.example".
type Unreached struct{ Rule, DecidedBy string }

// written is a subject of a rule, as people know it.
type written struct {
	text  string
	allow bool
	pos   int // in the order of all subjects
}

// coverage is what the subjects so far match, each with the first that does.
type coverage struct {
	all      *written
	names    map[string]*written // those of wildcards with "*." in front
	prefixes map[netip.Prefix]*written
	sockets  map[netip.AddrPort]*written
}

// FindUnreached returns the subjects of rules that never decide. Those of files are not
// looked at.
func FindUnreached(rules []Rule) (found []Unreached) {
	c := coverage{
		names:    make(map[string]*written),
		prefixes: make(map[netip.Prefix]*written),
		sockets:  make(map[netip.AddrPort]*written),
	}
	pos := 0
	for i, r := range rules {
		for _, text := range r.Subjects {
			s, err := parseWritten(text)
			if err != nil {
				continue // which is for New to tell
			}
			pos++
			w := &written{ruleText(i, " "+plaintext.Printable(text), r.Allow), r.Allow, pos}
			if before := c.covers(s); before != nil && before.allow != w.allow {
				found = append(found, Unreached{w.text, before.text})
			}
			c.add(s, w)
		}
	}
	return found
}

func (c *coverage) add(s subject, w *written) {
	switch {
	case s.all:
		if c.all == nil {
			c.all = w
		}
	case s.name != "" && s.wildcard:
		addFirst(c.names, "*."+s.name, w)
	case s.name != "":
		addFirst(c.names, s.name, w)
	case s.port != 0:
		addFirst(c.sockets, netip.AddrPortFrom(s.prefixes[0].Addr(), s.port), w)
	default:
		for _, p := range s.prefixes {
			addFirst(c.prefixes, p, w)
		}
	}
}

// covers returns the first subject that matches all that s does; nil if none does.
func (c *coverage) covers(s subject) *written {
	by := c.all
	switch {
	case s.name != "":
		by = earlier(by, c.coversName(s))
	case len(s.prefixes) > 0:
		by = earlier(by, c.coversAddrs(s))
	}
	return by
}

// earlier returns the one of two that is written first; either may be nil.
func earlier(a, b *written) *written {
	if a == nil || b != nil && b.pos < a.pos {
		return b
	}
	return a
}

func (c *coverage) coversName(s subject) (by *written) {
	if !s.wildcard {
		by = c.names[s.name]
	}
	for name, more := s.name, true; more; _, name, more = strings.Cut(name, ".") {
		by = earlier(by, c.names["*."+name])
	}
	return by
}

func (c *coverage) coversAddrs(s subject) (by *written) {
	for i, p := range s.prefixes {
		w := c.coversPrefix(p)
		if s.port != 0 {
			return earlier(w, c.sockets[netip.AddrPortFrom(p.Addr(), s.port)])
		}
		if w == nil || i > 0 && w.allow != by.allow {
			return nil // not as a whole
		}
		by = w
	}
	return by
}

func (c *coverage) coversPrefix(p netip.Prefix) (by *written) {
	for bits := range p.Bits() + 1 {
		wider, err := p.Addr().Prefix(bits)
		if err == nil {
			by = earlier(by, c.prefixes[wider])
		}
	}
	return by
}
