package metrics

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/origin"
)

// This file contains what is counted beside the usual request: connections, look-ups,
// handshakes, and attempts beyond the first. What is not on the way of a request over a
// pooled connection finds its series by label.

// resultOf is the word for how something has ended that has failed with f, if with any.
func resultOf(f *failure.Failure) string {
	switch f {
	case nil:
		return "ok"
	case failure.Canceled:
		return "canceled"
	}
	return "failed"
}

// resultOfErr is resultOf for an error.
func resultOfErr(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "failed"
}

// repeated counts the attempts of a request beyond the first.
func (s *series) repeated(o *core.Outcome) {
	h := s.of.handler
	if n := o.Attempts - 1 - o.Hedges; n > 0 {
		retries.WithLabelValues(h, s.kind, s.path, s.group, resultOf(o.Failure)).Add(float64(n))
	}
	lost := o.Hedges
	if o.HedgeWon {
		lost--
		hedges.WithLabelValues(h, o.Group, "won").Inc()
	}
	if lost > 0 {
		hedges.WithLabelValues(h, o.Group, "lost").Add(float64(lost))
	}
}

// pool counts what becomes of pooled connections on one way. Connections hold it, also those
// that outlive all that counts: then it counts for nobody. So all of its series are made with
// it, and none later.
type pool struct {
	dialed [len(dialResults)]prometheus.Counter
	closed [connpool.Reasons]prometheus.Counter
}

var dialResults = [...]string{"ok", "failed", "canceled"}

// newPool makes the counters of a way.
func (s *series) newPool() *pool {
	p := new(pool)
	for i, result := range dialResults {
		p.dialed[i] = poolDials.WithLabelValues(s.of.handler, s.path, s.group, result)
	}
	for i := range p.closed {
		p.closed[i] = poolClosed.WithLabelValues(s.of.handler, s.path, s.group, connpool.Reason(i).String())
	}
	return p
}

// Dialed implements origin.Recorder.
func (p *pool) Dialed(err error) {
	p.dialed[slices.Index(dialResults[:], resultOfErr(err))].Inc()
}

// Closed implements origin.Recorder.
func (p *pool) Closed(reason connpool.Reason) { p.closed[reason].Inc() }

// Pool implements core.Recorder.
func (u *Use) Pool(group string) origin.Recorder {
	w := way{path: "direct", group: group}
	if group != "" {
		w.path = "upstream"
	}
	defer u.giveBack()
	s := u.take().series(w)
	if s.pool.Load() == nil {
		s.pool.CompareAndSwap(nil, s.newPool()) // who else came has made the same
	}
	return s.pool.Load()
}

// LookedUp implements dial.Recorder.
func (u *Use) LookedUp(result dial.Lookup) {
	u.take().lookups[result].Inc()
	u.giveBack()
}

// Resolved implements dial.Recorder.
func (u *Use) Resolved(took time.Duration, result dial.Lookup) {
	word := result.String()
	if result == dial.Hit {
		word = "ok"
	}
	u.take().observe(dnsDuration, took, word)
	u.giveBack()
}

// Handshaken implements dial.Recorder.
func (u *Use) Handshaken(took time.Duration, err error) {
	u.take().observe(tlsDuration, took, resultOfErr(err))
	u.giveBack()
}

func (r *Recorder) observe(to *prometheus.HistogramVec, took time.Duration, result string) {
	to.WithLabelValues(r.handler, result).Observe(took.Seconds())
}

// Interface guards
var (
	_ origin.Recorder = (*pool)(nil)
	_ dial.Recorder   = (*Use)(nil)
)
