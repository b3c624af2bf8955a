//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{3, 1, 9}, spread{3, 1, 9}},
		{[]float64{4, 1, 9, 3}, spread{3.5, 1, 9}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("%v: %v, want %v", test.values, got, test.want)
		}
	}
}

func TestPaired(t *testing.T) {
	got := paired([]float64{1, 6, 5}, []float64{2, 3})
	if want := []float64{0.5, 2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestReportCPU(t *testing.T) {
	var b strings.Builder
	reportCPU(&b, []cpuRow{{
		experiment{key: "get", name: "GET", unit: "µs"},
		[]series{
			{subject: egress, total: []float64{50, 60, 70}, user: []float64{30, 30, 30}},
			{subject: transport, total: []float64{100, 100, 100}, user: []float64{70, 70, 70}, errors: 2, first: "cut"},
		},
	}})
	for _, want := range []string{
		"| GET | egress | 60 (50–70) µs | 30 | 0.60 (0.50–0.70), goal ≤ 0.60 | – | – | 0 |\n",
		"| GET | http.Transport + io.Copy | 100 (100–100) µs | 70 | – | – | – | **2**: cut |\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no line %q in\n%s", want, b.String())
		}
	}
	columns := -1
	for line := range strings.Lines(strings.TrimSpace(b.String())) {
		if n := strings.Count(line, "|"); columns >= 0 && n != columns {
			t.Errorf("%d columns, want %d: %s", n, columns, line)
		} else {
			columns = n
		}
	}
}

// TestGoals finds goals that name what is not measured.
func TestGoals(t *testing.T) {
	for _, g := range goals {
		i := slices.IndexFunc(experiments(1), func(e experiment) bool { return e.key == g.key })
		if i < 0 {
			t.Errorf("goal for %q, which is no experiment", g.key)
			continue
		}
		e := experiments(1)[i]
		if !slices.Contains(e.subjects, g.of) || !slices.Contains(e.subjects, g.by) {
			t.Errorf("goal for %q compares %q with %q, which it does not measure", g.key, g.of, g.by)
		}
	}
}
