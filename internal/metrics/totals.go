package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains what is told of the counters to those that look without Prometheus.

// Way is how requests left a handler: with a group, through its upstreams.
type Way struct{ Handler, Path, Group string }

// WayTotals are the requests of a way since the beginning.
type WayTotals struct {
	Requests uint64
	Failed   uint64   // of these, and tunnels that their far end has broken
	Within   []uint64 // those that took no longer than each of TimeBuckets, and all
}

// Charge is whom failures of a handler are charged to.
type Charge struct{ Handler, Blame string }

// Totals are the requests of all handlers since the beginning.
type Totals struct {
	Ways     map[Way]*WayTotals
	Failures map[Charge]uint64
}

// TimeBuckets are the times, in seconds, of WayTotals.Within.
func TimeBuckets() []float64 { return timeBuckets }

// TakeTotals reads the counters. It takes as long as there are series.
func TakeTotals() Totals {
	t := Totals{Ways: make(map[Way]*WayTotals), Failures: make(map[Charge]uint64)}
	collect(failures, func(m *dto.Metric, label func(string) string) {
		t.Failures[Charge{label("handler"), label("blame")}] += uint64(m.GetCounter().GetValue())
	})
	collect(requests, func(m *dto.Metric, label func(string) string) {
		w, n := t.way(label), uint64(m.GetCounter().GetValue())
		w.Requests += n
		if label("outcome") == "failed" {
			w.Failed += n
		}
	})
	collect(tunnelsClosed, func(m *dto.Metric, label func(string) string) {
		if label("reason") == relay.ReasonOriginError.String() {
			t.way(label).Failed += uint64(m.GetCounter().GetValue())
		}
	})
	collect(requestDuration, func(m *dto.Metric, label func(string) string) {
		w, h := t.way(label), m.GetHistogram()
		for i, b := range h.GetBucket() {
			if i < len(timeBuckets) {
				w.Within[i] += b.GetCumulativeCount()
			}
		}
		w.Within[len(timeBuckets)] += h.GetSampleCount()
	})
	return t
}

func (t *Totals) way(label func(string) string) *WayTotals {
	key := Way{label("handler"), label("path"), label("group")}
	if t.Ways[key] == nil {
		t.Ways[key] = &WayTotals{Within: make([]uint64, len(timeBuckets)+1)}
	}
	return t.Ways[key]
}

// collect calls f for each series of a family.
func collect(of prometheus.Collector, f func(m *dto.Metric, label func(string) string)) {
	metrics := make(chan prometheus.Metric, 64)
	go func() {
		defer close(metrics)
		of.Collect(metrics)
	}()
	for metric := range metrics {
		var m dto.Metric
		if metric.Write(&m) != nil {
			continue // ours are written without an error
		}
		f(&m, func(name string) string {
			if i := slices.IndexFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == name }); i >= 0 {
				return m.Label[i].GetValue()
			}
			return ""
		})
	}
}
