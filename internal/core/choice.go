package core

import (
	"github.com/caddy-egress/egress/internal/destination"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/selection"
)

// This file contains the choice of a member, and what is passed over.

// passedBy are members that are passed over, since the destination fails through them.
type passedBy struct {
	open *destination.OpenError
	vias []uint64 // the keys of the members
}

// mostPassed is how many members are passed over for one attempt, at most. A destination
// has circuits of its own for fewer: those that are left share one of them, which is open.
const mostPassed = 20

// pick chooses the next member, of those through which the destination may be asked for.
// Where members were passed over and nobody is left, it is for that the request fails.
// (Direct dials ask the circuit themselves.)
func (t *Request) pick(g *upstream.Group) (upstream.Attempt, error) {
	turn := exchangeTurn
	if t.Use == upstream.Tunnel {
		turn = health.ProbeLimit // which stands or fails in time
	}
	for range mostPassed {
		p, err := g.Pick(t.Ways.selection, t.Use)
		if err != nil {
			return upstream.Attempt{}, t.nobodyLeft(g, err)
		}
		open := t.Ways.report.Take(p.Key(), turn)
		if open == nil || p.IsProbe() {
			return p, nil // the probe of a member is not put off
		}
		if t.Ways.passed == nil {
			t.Ways.passed = new(passedBy)
		} else {
			open.Causes = append(open.Causes, t.Ways.passed.open.Causes...)
		}
		t.Ways.passed.open, t.Ways.passed.vias = open, append(t.Ways.passed.vias, p.Key()) // since just now
	}
	return upstream.Attempt{}, t.Ways.passed.open
}

// nobodyLeft is the error of a request for which no member is left. The circuits of the
// destination say more than that, but not where it could have gone through others that
// cannot be used.
func (t *Request) nobodyLeft(g *upstream.Group, err error) error {
	switch {
	case t.Ways.passed == nil:
		return err
	case g.HasBeside(t.Ways.passed.vias):
		return &passedOver{t.Ways.passed.open, err}
	}
	return t.Ways.passed.open
}

// passedOver refuses a request since members are passed over for its destination, and no
// other one can be used.
type passedOver struct {
	*destination.OpenError
	others error
}

func (e *passedOver) Error() string   { return e.OpenError.Error() + "; " + e.others.Error() }
func (e *passedOver) Unwrap() []error { return []error{e.OpenError, e.others} }

// NewSelection is what policies may know of this request.
func (t *Request) NewSelection() *selection.Choice {
	s := &selection.Choice{
		Request:     t.HTTP,
		User:        t.User,
		Session:     t.Session,
		ClientIP:    t.Client.IP(),
		Destination: t.Target.String(),
		Bodyless:    t.BodyRead,
	}
	if t.Ways.byName {
		t.Ways.passOverResolved(s)
	}
	return s
}
