package core

import (
	"time"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains how the rules are applied to destinations that leave through a group.

// namesWait is how long members that resolve names wait for what we find out about one, in a
// group with others that do not: long enough for a server that answers at all, since who does
// not wait is not checked.
const namesWait = 2 * time.Second

// CheckBehind applies the rules to a destination that leaves through a group: by its name,
// and, where the operator wants that, by its addresses as we see them. Where every member is
// told an address, that one is checked when it is looked up.
func (t *Request) CheckBehind() error {
	t.Ways.byName, t.Ways.late = false, false
	switch d, g := t.Proxy.Direct.Dialer, t.Ways.To.Group; {
	case t.Proxy.ResolveNames:
		return d.CheckNames(t.HTTP.Context(), t.Target, g)
	case g.Resolution() == upstream.Here && !t.Target.IsAddr():
		return t.Proxy.Access.Now().CheckUnresolved(t.Target)
	case g.Resolution() == upstream.ByBoth:
		return t.checkByBoth(d, g)
	default:
		return d.CheckUnresolved(t.HTTP.Context(), t.Target, g)
	}
}

// checkByBoth is CheckBehind where some members are told addresses, and others names: what
// is allowed must not hang on which one is chosen. A name that cannot be looked up here is
// left to those that resolve it, which wait for that a moment only.
func (t *Request) checkByBoth(d *dial.Dialer, g *upstream.Group) error {
	if err := d.CheckUnresolved(t.HTTP.Context(), t.Target, g); err != nil || t.Target.IsAddr() {
		return err
	}
	late, err := d.CheckNamesWithin(t.HTTP.Context(), t.Target, g, namesWait)
	if err == nil {
		t.Ways.byName, t.Ways.late = late, late
		return nil
	}
	switch failure.Of(err) {
	case failure.DNS, failure.DNSTimeout, failure.NoName:
		t.Ways.byName = true
		return nil
	}
	return err
}

// AwaitNames waits for the name after all, where none of the members that resolve it could be
// taken. Those that are told addresses may be from here on, unless it returns an error: that
// for which no member is left, or why the destination may not be reached.
func (t *Request) AwaitNames(nobody error) error {
	if !t.Ways.late {
		return nobody
	}
	t.Ways.late = false
	if err := t.Proxy.Direct.CheckNames(t.HTTP.Context(), t.Target, t.Ways.To.Group); err != nil {
		if failure.Of(err).Blame == failure.BlamePolicy {
			return err
		}
		return nobody
	}
	t.Ways.byName = false
	if t.Ways.selection != nil {
		t.Ways.selection = t.withAddrs()
	}
	return nil
}

// withAddrs is the choice of the request as it will be when the name is known.
func (t *Request) withAddrs() *selection.Choice {
	before, byName := t.Ways.selection, t.Ways.byName
	t.Ways.byName = false
	s := t.NewSelection()
	t.Ways.byName = byName
	for _, m := range t.Ways.To.Group.Members() {
		if !m.TakesAddrs() && before.Excludes(m.Key()) {
			s.MarkTriedKey(m.Key())
		}
	}
	return s
}

// hasAnother reports whether there is a member that the request has not tried, be it one that
// the name has to be known for.
func (t *Request) hasAnother() bool {
	g := t.Ways.To.Group
	return g.HasAnother(t.Ways.selection, t.Use) || t.Ways.late && g.HasAnother(t.withAddrs(), t.Use)
}

// passOverResolved passes over the members that would have to be told an address, which is
// not known.
func (w *Ways) passOverResolved(s *selection.Choice) {
	for _, m := range w.To.Group.Members() {
		if m.TakesAddrs() {
			s.PassOver(m.Key())
		}
	}
}
