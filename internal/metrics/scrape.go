package metrics

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// scrape is what one scrape is told. The same label is one value in all of its metrics:
// most metrics of an upstream differ in one label or none, and thousands are told.
type scrape struct {
	to    chan<- prometheus.Metric
	pairs map[pair]*dto.LabelPair
	told  map[identity]struct{}
	now   time.Time
}

// maxLabels is how many labels a metric of a scrape has at most.
const maxLabels = 4

// identity is what makes a series: two of the same would be an error of the whole scrape.
type identity struct {
	of     *measured
	labels [maxLabels]*dto.LabelPair
}

// pair is a label with its value.
type pair struct{ name, value string }

// send tells a value, with the values of its labels in the order of their description. What was
// told already is not told again.
func send(out *scrape, m *measured, value float64, labels ...string) {
	s := &sample{of: m, value: value, labels: make([]*dto.LabelPair, len(m.order))}
	for i, at := range m.order {
		s.labels[i] = out.label(m.labels[at], labels[at])
	}
	id := identity{of: m}
	copy(id.labels[:], s.labels)
	if _, again := out.told[id]; again {
		return
	}
	out.told[id] = struct{}{}
	out.to <- s
}

func (out *scrape) label(name, value string) *dto.LabelPair {
	key := pair{name, value}
	l := out.pairs[key]
	if l == nil {
		text := value
		if !utf8.ValidString(text) { // as the name of a file may be
			text = strings.Trim(strconv.Quote(text), `"`)
		}
		l = &dto.LabelPair{Name: &key.name, Value: &text}
		out.pairs[key] = l
	}
	return l
}

// sample is a metric of a scrape.
type sample struct {
	of     *measured
	value  float64
	labels []*dto.LabelPair // by name
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.of.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(out *dto.Metric) error {
	out.Label = s.labels
	if s.of.typ == counterType {
		out.Counter = &dto.Counter{Value: &s.value}
	} else {
		out.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}
