package destination

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/target"
)

// Charge tells the circuit how the attempts that it allowed ended. The zero value
// has nothing to tell.
type Charge struct {
	to      *Path
	dest    target.Target
	tls     bool
	slot    uint32 // of the source that it is dialed from; 0: sources are not kept apart
	current passage
	failed  []failed // that came before, through other members
}

// passage is an attempt at a destination on one way.
type passage struct {
	via   uint64
	way   *way // of which it has the turn of the probe; nil: of none
	probe health.Token
}

// failed is an attempt whose failure is charged.
type failed struct {
	passage
	question *dnscache.Question // about the name, that has failed; nil: it was something else
	cause    *failure.Failure
	text     string // of the error
}

// Tell charges the result, if it is one that the destination is to blame for. It
// must be called exactly once; what is told after that is not heard.
func (r *Charge) Tell(err error) { r.Settle(err, Chargeable(err)) }

// Settle is tell where it is known whether the destination is to blame.
func (r *Charge) Settle(err error, charge bool) {
	d := r.to
	if d == nil {
		return
	}
	r.End(err, charge)
	r.to = nil
	if len(r.failed) > 0 {
		d.failure(r, err)
	}
	if err == nil {
		d.success(r)
	}
}

// End ends the current attempt, which may be followed by others.
func (r *Charge) End(err error, charge bool) {
	a := r.current
	switch {
	case r.to == nil || err == nil:
	case charge:
		r.failed = append(r.failed, failed{a, dnscache.QuestionOf(err), failure.Of(err), plaintext.Short(err.Error(), maxText)})
	case errors.Is(err, context.Canceled):
		r.unsettled((*health.Circuit).Left)
	case neverAsked(err):
		r.GiveBack()
	default:
		r.unsettled((*health.Circuit).Unsettled)
	}
}

// GiveBack ends the current attempt before anything was asked of the destination: if it
// had the turn of the probe, the next request has it.
func (r *Charge) GiveBack() { r.unsettled((*health.Circuit).GiveBack) }

// Split takes the current attempt out of the report, for one of its own. What either tells
// counts as that of a request, unless the part is joined again.
func (r *Charge) Split() Charge {
	part := *r
	part.failed, r.current = nil, passage{}
	return part
}

// Beside is a report of its own on an attempt through another member, made beside the
// current one. It has no turn of a probe.
func (r *Charge) Beside(via uint64) Charge {
	return Charge{to: r.to, dest: r.dest, tls: r.tls, slot: r.slot, current: passage{via: via}}
}

// Join takes over what part has to tell: its attempt is the current one now, and what has
// failed counts as part of this request. part has nothing to tell any more.
func (r *Charge) Join(part *Charge) {
	r.failed = append(r.failed, part.failed...)
	r.current = part.current
	*part = Charge{}
}

// unsettled gives up the turn of the probe, if the current attempt has it.
func (r *Charge) unsettled(give func(*health.Circuit, time.Time, health.Token)) {
	a := r.current
	r.current.way, r.current.probe = nil, 0
	if r.to == nil || a.probe == 0 {
		return
	}
	s := r.to.lookup(r.to.key(r))
	if s == nil {
		return
	}
	s.mu.Lock()
	if s.way(a.via) == a.way { // or it was forgotten in the meantime
		give(&a.way.circuit, time.Now(), a.probe)
	}
	s.mu.Unlock()
}

// maxText is how much is kept of the error behind a failure, for people.
const maxText = 256

// neverAsked reports whether an attempt has failed before anything was asked of the
// destination.
func neverAsked(err error) bool {
	switch failure.Of(err) {
	case failure.Limit, failure.Dialing, failure.Holding, failure.Denied, failure.DeniedAddress, failure.FieldsSize, failure.Target, failure.NoUpstream:
		return true
	}
	return false
}

// Probes reports whether the current attempt is the probe of a circuit.
func (r *Charge) Probes() bool { return r.current.probe != 0 }

// Take is allow for an attempt through a member.
func (r *Charge) Take(via uint64, turn time.Duration) *OpenError {
	r.current = passage{via: via}
	d := r.to
	if d == nil || d.count.Load() == 0 {
		return nil // the usual case costs no key
	}
	key := d.key(r)
	s := d.lookup(key)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.last = now
	w := s.way(via)
	if w == nil {
		return nil
	}
	ok, probe, wait := w.circuit.Allow(now, turn)
	switch {
	case !ok:
		return &OpenError{destination: key, RetryAfter: wait, Causes: []*failure.Failure{w.cause}}
	case probe != 0:
		r.current.way, r.current.probe = w, probe
	}
	return nil
}

// Shut returns the members through which the destination is not to be asked for now, and
// the error where nobody else is left.
func (r *Charge) Shut() (vias []uint64, open *OpenError) {
	d := r.to
	if d == nil || d.count.Load() == 0 {
		return nil, nil
	}
	key := d.key(r)
	s := d.lookup(key)
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.last = now
	for _, w := range s.ways {
		wait := w.circuit.Shut(now)
		if wait <= 0 {
			continue
		}
		vias = append(vias, w.via)
		if open == nil {
			open = &OpenError{destination: key, RetryAfter: wait}
		}
		open.RetryAfter = min(open.RetryAfter, wait)
		open.Causes = append(open.Causes, w.cause)
	}
	return vias, open
}

// Chargeable reports whether the destination is to blame for a dial that has failed: not
// for what the client, policy or this proxy's own limits did. A name that does not exist
// fails for whoever asks for it, so that it is given a pause as well.
func Chargeable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	f := failure.Of(err)
	switch f.Blame {
	case failure.BlameOrigin, failure.BlameDNS, failure.BlameNetwork:
		return true
	}
	return f == failure.NoName
}
