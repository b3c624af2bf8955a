package metrics

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/upstream"
)

// valuesOf are the counters and the counts of histograms of a handler, by name and labels
// but for the handler's, those of 0 left out.
func valuesOf(t *testing.T, place string) map[string]float64 {
	t.Helper()
	values := make(map[string]float64)
	for _, f := range gather(t) {
	metrics:
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				switch {
				case l.GetName() != "handler":
					labels = append(labels, l.GetValue())
				case l.GetValue() != place:
					continue metrics
				}
			}
			name := strings.TrimPrefix(f.GetName(), "caddy_egress_") + " " + strings.Join(labels, " ")
			if n := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()); n > 0 {
				values[name] = n
			}
		}
	}
	return values
}

// Attempts beyond the first are retries or hedges, and told by how they have ended; waits,
// dials and closes are those of their way.
func TestAttemptsAndConnections(t *testing.T) {
	u := Acquire(t.Name(), nil, nil)
	defer u.Release()
	tell := func(use upstream.Use, o core.Outcome) {
		u.Begin(use)
		o.Group, o.Upstream, o.Status = "g", "http://proxy", 200
		u.Ended(&core.Request{Use: use, Outcome: o})
	}
	tell(upstream.Tunnel, core.Outcome{Attempts: 4, Hedges: 2, HedgeWon: true})
	tell(upstream.Tunnel, core.Outcome{Attempts: 2, Hedges: 1})
	tell(upstream.Exchange, core.Outcome{Attempts: 3, Failure: failure.UpstreamConnect, Queue: time.Second})
	tell(upstream.Exchange, core.Outcome{Attempts: 1, Failure: failure.Canceled, Queue: time.Second})
	direct, via := u.Pool(""), u.Pool("g")
	for _, err := range []error{nil, nil, errors.New("refused"), fmt.Errorf("dial: %w", context.Canceled)} {
		direct.Dialed(err)
	}
	via.Closed(connpool.Dead)
	via.Closed(connpool.Dead)
	direct.Closed(connpool.Idle)
	got := valuesOf(t, t.Name())
	for name, want := range map[string]float64{
		"retries_total g tunnel upstream ok":         1,
		"retries_total g exchange upstream failed":   2,
		"retries_total g exchange upstream canceled": 0,
		"hedges_total g won":                         1,
		"hedges_total g lost":                        2,
		"queue_duration_seconds g upstream failed":   1,
		"queue_duration_seconds g upstream canceled": 1,
		"queue_duration_seconds g upstream ok":       0,
		"pool_dials_total  direct ok":                2,
		"pool_dials_total  direct failed":            1,
		"pool_dials_total  direct canceled":          1,
		"pool_closed_total g upstream dead":          2,
		"pool_closed_total  direct idle":             1,
		"request_duration_seconds g tunnel upstream": 2,
	} {
		if got[name] != want {
			t.Errorf("%q is %v, want %v", name, got[name], want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// A connection that outlives all that counts is told of to nobody, and keeps no series.
func TestConnectionsThatOutliveTheirHandler(t *testing.T) {
	u := Acquire(t.Name(), nil, nil)
	to := u.Pool("")
	to.Dialed(nil)
	u.Release()
	to.Closed(connpool.Retired)
	if got := valuesOf(t, t.Name()); len(got) > 0 {
		t.Errorf("left are %v", got)
	}
}

// A tunnel that breaks has failed, as its line in the access log has it: it is counted among
// the failures, and in what the page draws, once, although its request was answered well.
func TestTunnelsThatBreak(t *testing.T) {
	u := Acquire(t.Name(), nil, nil)
	defer u.Release()
	for _, reason := range []relay.Reason{relay.ReasonClient, relay.ReasonOriginError, relay.ReasonOriginError, relay.ReasonClientError, relay.ReasonPolicy} {
		r := &core.Request{Use: upstream.Tunnel, Outcome: core.Outcome{Attempts: 1, Status: 200}}
		u.Begin(r.Use)
		u.Ended(r)
		u.Stands(r)(relay.Result{Reason: reason})
	}
	u.Begin(upstream.Tunnel)
	u.Ended(&core.Request{Use: upstream.Tunnel, Outcome: core.Outcome{Attempts: 1, Status: 502, Failure: failure.Refused}})
	got := valuesOf(t, t.Name())
	for name, want := range map[string]float64{
		"failures_total origin tunnel connection_terminated tunnel": 2,
		"failures_total client tunnel  tunnel":                      1,
		"failures_total origin tunnel connection_refused request":   1,
		"requests_total 2xx http  tunnel ok direct":                 5,
		"requests_total 5xx http  tunnel failed direct":             1,
	} {
		if got[name] != want {
			t.Errorf("%q is %v, want %v", name, got[name], want)
		}
	}
	totals := TakeTotals()
	if n := totals.Failures[Charge{t.Name(), "origin"}]; n != 3 {
		t.Errorf("origins are charged %d failures", n)
	}
	if w := totals.Ways[Way{t.Name(), "direct", ""}]; w.Requests != 6 || w.Failed != 3 {
		t.Errorf("%+v", w)
	}
	if t.Failed() {
		t.Log(got)
	}
}

// Codes that HTTP has no meaning for are answers all the same.
func TestCodes(t *testing.T) {
	u := Acquire(t.Name(), nil, nil)
	defer u.Release()
	for _, status := range []uint16{0, 101, 299, 599, 600, 999} {
		u.Begin(upstream.Exchange)
		u.Ended(&core.Request{Outcome: core.Outcome{Attempts: 1, Status: status}})
	}
	got := valuesOf(t, t.Name())
	for code, want := range map[string]float64{"none": 1, "1xx": 1, "2xx": 1, "5xx": 1, "other": 2} {
		if name := "requests_total " + code + " http  exchange ok direct"; got[name] != want {
			t.Errorf("%q is %v, want %v", name, got[name], want)
		}
	}
}
