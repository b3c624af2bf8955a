package acl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/caddy-egress/egress/internal/firstmatch"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how a list of rules is compiled.

// listBuilder is an access list in the making.
type listBuilder struct {
	list     *List
	prefixes []firstmatch.Entry
	rule     int // that is being added, from 0
	counted  map[string]*hits
}

// New compiles rules and ports, and reads the files that the rules name.
// Without ports, every port but 25 (SMTP, where open proxies are abused to send
// mail) is allowed. Errors name the rule as explain does, `acl[0]`, and its
// subject, or the file and the line.
func New(rules []Rule, ports []PortRange) (*List, error) {
	return compile(rules, ports, NewHits().hold(textsOf(rules)))
}

// compile is New with the hits of the rules by their texts.
func compile(rules []Rule, ports []PortRange, counted map[string]*hits) (*List, error) {
	for i, p := range ports {
		if err := p.validate(); err != nil {
			return nil, fmt.Errorf("allowed_ports[%d]: %w", i, err)
		}
	}
	b := listBuilder{counted: counted, list: &List{
		made:           time.Now(),
		read:           make(map[int]*File),
		ports:          slices.Clone(ports),
		all:            noMatch,
		names:          firstmatch.NewNames(),
		sockets:        make(map[netip.AddrPort]uint32),
		allowedPrivate: noMatch,
		onAddrs:        firstByPort{noMatch, make(map[uint16]uint32)},
		opens:          firstByPort{noMatch, make(map[uint16]uint32)},
	}}
	for i := range rules {
		b.rule = i
		if err := b.addRule(&rules[i]); err != nil {
			return nil, fmt.Errorf("acl[%d]: %w", i, err)
		}
	}
	b.list.prefixes = firstmatch.NewPrefixes(b.prefixes)
	return b.list, nil
}

func (b *listBuilder) addRule(r *Rule) error {
	if len(r.Subjects) == 0 && len(r.Files) == 0 {
		return errors.New("no subjects; write at least one, or 'all'")
	}
	for _, text := range r.Subjects {
		s, err := parseWritten(text)
		if err != nil {
			return fmt.Errorf("subject '%s': %w", plaintext.Printable(text), err)
		}
		reason := DenyHost
		if len(s.prefixes) > 0 {
			reason = DenyAddress
		}
		if err := b.add(s, r.Allow, b.position(r.Allow, reason, " "+plaintext.Printable(text))); err != nil {
			return fmt.Errorf("subject '%s': %w", plaintext.Printable(text), err)
		}
	}
	for _, path := range r.Files {
		if err := b.addFile(path, r.Allow); err != nil {
			return err
		}
	}
	return nil
}

// addFile adds the subjects of a file. As they all say the same, their order is of
// no account, and all names have one position and all addresses the next: a name
// that is refused is so before it is resolved, wherever in the file it stands.
func (b *listBuilder) addFile(path string, allow bool) error {
	text := "_file " + plaintext.Printable(path)
	onNames := b.position(allow, DenyHost, text)
	onAddrs := b.position(allow, DenyAddress, text)
	before := b.list.files
	blank, err := readSubjects(path, func(s subject) error {
		pos := onNames
		if len(s.prefixes) > 0 {
			pos = onAddrs
		}
		b.list.files++
		return b.add(s, allow, pos)
	})
	b.list.read[int(onNames)] = &File{path, b.list.files - before}
	if blank {
		b.list.blank = append(b.list.blank, path)
	}
	return err
}

// position makes the next position of the list. text is what stands behind the word
// allow or deny there.
func (b *listBuilder) position(allow bool, reason denyReason, text string) uint32 {
	h := b.counted[verb(allow)+text]
	var verdict *Denial
	if !allow {
		verdict = &Denial{Reason: reason, Rule: "deny" + text, hits: h}
	}
	b.list.hits = append(b.list.hits, h)
	b.list.texts = append(b.list.texts, ruleText(b.rule, text, allow))
	b.list.verdicts = append(b.list.verdicts, verdict)
	return uint32(len(b.list.verdicts) - 1)
}

// add adds a subject at a position. An earlier one of the same name keeps its
// own, because the first match wins.
func (b *listBuilder) add(s subject, allow bool, pos uint32) error {
	l := b.list
	if len(s.prefixes) > 0 {
		l.onAddrs.add(s.port, pos)
		if allow {
			l.opens.add(s.port, pos)
		}
	}
	switch {
	case s.all:
		l.all = min(l.all, pos)
	case s.name != "":
		return l.names.Add(s.name, s.wildcard, pos)
	case s.port != 0:
		addFirst(l.sockets, netip.AddrPortFrom(s.prefixes[0].Addr(), s.port), pos)
	case s.private && allow: // who denies `private` means all of it
		l.allowedPrivate = min(l.allowedPrivate, pos)
	default:
		for _, p := range s.prefixes {
			b.prefixes = append(b.prefixes, firstmatch.Entry{Prefix: p, Pos: pos})
		}
	}
	return nil
}

// add notes a rule for a port, 0 for every one.
func (f *firstByPort) add(port uint16, pos uint32) {
	if port != 0 {
		addFirst(f.only, port, pos)
	} else {
		f.any = min(f.any, pos)
	}
}

func addFirst[K comparable, V any](m map[K]V, key K, pos V) {
	if _, ok := m[key]; !ok {
		m[key] = pos
	}
}
