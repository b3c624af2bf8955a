//go:build linux

package main

import (
	"encoding/xml"
	"io"
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

func TestSpreadFormat(t *testing.T) {
	for _, test := range []struct {
		s      spread
		digits int
		want   string
	}{
		{spread{12.34, 1, 20}, 0, "12 (1–20)"},
		{spread{-0.001, -0.02, 0.004}, 2, "0.00 (-0.02–0.00)"},
		{spread{-0.4, -1, 0}, 0, "0 (-1–0)"},
	} {
		if got := test.s.format(test.digits); got != test.want {
			t.Errorf("%v: %q, want %q", test.s, got, test.want)
		}
	}
}

func TestPaired(t *testing.T) {
	got := paired([]float64{1, 6, 5}, []float64{2, 3})
	if want := []float64{0.5, 2}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// someResults has two subjects in every experiment and figure that goals are
// about: the values of the first, and those of all others.
func someResults(first, other float64, errors int64) *results {
	r := &results{rounds: 2, repeats: 2, scale: 1, skipped: []string{"peer: it\nis gone"}}
	for _, e := range experiments(1) {
		row := cpuRow{experiment: e}
		for i, name := range e.subjects {
			v := other
			if i == 0 {
				v = first
			}
			row.series = append(row.series, series{
				subject: name, total: []float64{v, v}, user: []float64{v, v}, p50: []float64{v, v}, p99: []float64{v, v},
				errors: errors, first: "cut | short",
			})
		}
		r.cpu = append(r.cpu, row)
	}
	for _, m := range memoryRuns(1) {
		for i, name := range m.subjects {
			for _, f := range m.figures {
				f.group, f.subject, f.values, f.errors = m.name, name, []float64{other}, errors
				if i == 0 {
					f.values = []float64{first}
				}
				r.memory = append(r.memory, f)
			}
		}
	}
	return r
}

// tables are the lines of the tables of a Markdown text.
func tables(text string) (all [][]string) {
	var table []string
	for line := range strings.Lines(text + "\n") {
		if strings.HasPrefix(line, "|") {
			table = append(table, line)
		} else if table != nil {
			all = append(all, table)
			table = nil
		}
	}
	return all
}

func TestReport(t *testing.T) {
	var b strings.Builder
	someResults(50, 100, 2).report(&b, true)
	for _, want := range []string{
		"\n### GET 1 KiB\n\n| subject | user + system, µs | of it user | egress ÷ it | median latency, µs | p99 latency, µs | p99: egress ÷ it | errors |\n",
		"| egress | 50 (50–50) | 50 | – | 50 (50–50) | 50 (50–50) | – | **2**: cut \\| short |\n",
		"| Squid | 100 (100–100) | 100 | 0.50 (0.50–0.50) | 100 (100–100) | 100 (100–100) | 0.50 (0.50–0.50) | **2**",
		"\n### An idle tunnel, of 3000\n\n| subject | user memory, settled, KiB | user memory, as found, KiB | descriptors | errors |\n",
		"| tinyproxy | 100.0 (100.0–100.0) | 100.0 (100.0–100.0) | 100.00 (100.00–100.00) | **2**",
		"- peer: it is gone\n",
		"](chart.svg)\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for _, table := range tables(b.String()) {
		for _, line := range table {
			if got, want := columns(line), columns(table[0]); got != want {
				t.Errorf("%d columns, want %d: %s", got, want, line)
			}
		}
	}
}

func columns(line string) int { return strings.Count(strings.ReplaceAll(line, "\\|", ""), "|") }

// TestGoals finds goals about what is not measured, and goals that are met, or
// missed, whatever is measured.
func TestGoals(t *testing.T) {
	for _, g := range goals {
		away := strings.Contains(g.figure, "forwardproxy")
		for name, test := range map[string]struct {
			results *results
			met, ok bool
		}{
			"good":     {someResults(0.005, 100, 0), true, true},
			"bad":      {someResults(200, 100, 0), false, true},
			"wrong":    {someResults(0.005, 100, 1), false, true},
			"no value": {new(results), false, false},
		} {
			if strings.HasPrefix(g.figure, "memory from a tenth") && name == "bad" {
				test.results.figure("hosts.first", egress).values = []float64{100}
			}
			value, met, ok := g.judge(test.results)
			if met != (test.met && !away) || ok != (test.ok && !away) || ok && value == "" {
				t.Errorf("%s, %s: %q, met %t, measured %t", g.figure, name, value, met, ok)
			}
		}
	}
}

func TestChartIsXML(t *testing.T) {
	r := someResults(50, 100, 0)
	r.cpu[0].series[1].subject = "<&\""
	r.cpu[0].series[2].total = nil
	var b strings.Builder
	if err := r.chart(&b); err != nil {
		t.Fatal(err)
	}
	rects := 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			rects++
		}
	}
	bars := 0
	for _, f := range chartedFigures {
		bars += len(r.bars(f.key))
	}
	if bars < 40 || rects != bars+1 { // and the ground
		t.Errorf("%d rectangles for %d bars", rects, bars)
	}
	for _, b := range r.bars("get") {
		if want := barWidth / 2; b.Own && b.Width != want+1 && b.Width != want {
			t.Errorf("a bar of half the longest is %d wide, want %d", b.Width, want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"", ""},
		{"-only connect", ""},
		{"-only get,tunnel8,slow -rounds 1 -scale 0.05", ""},
		{"-quick -out x", ""},
		{"-only get,nothing", `-only: no measurement "nothing"; there are get, post, low,`},
		{"-rounds 0", "bad arguments"},
		{"-scale -1", "bad arguments"},
		{"get", "bad arguments"},
	} {
		_, err := parseOptions(strings.Fields(test.args))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %v, want %q", test.args, err, test.want)
		}
	}
}
