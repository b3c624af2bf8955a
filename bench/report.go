//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The files of a report.
const (
	reportFile = "README.md"
	chartFile  = "chart.svg"
)

// write puts the report and its chart into a directory.
func (r *results) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var text, chart strings.Builder
	r.report(&text, true)
	if err := r.chart(&chart); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, chartFile), []byte(chart.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, reportFile), []byte(text.String()), 0o644)
}

// report writes everything as Markdown.
func (r *results) report(w io.Writer, chart bool) {
	fmt.Fprint(w, "# What egress costs\n\n")
	fmt.Fprintf(w, "Written by [`bench/`](../../bench/README.md), which says what is measured and how.\n\n")
	r.reportMachine(w)
	if chart {
		fmt.Fprintf(w, "\n![Processor time and memory of egress and other proxies](%s)\n", chartFile)
	}
	r.reportGoals(w)
	r.reportCPU(w)
	r.reportMemory(w)
	if len(r.skipped) > 0 {
		fmt.Fprint(w, "\n## Not measured\n\n")
		for _, text := range r.skipped {
			fmt.Fprintf(w, "- %s\n", strings.Join(strings.Fields(text), " "))
		}
	}
}

// reportMachine writes where, when and of what the figures are.
func (r *results) reportMachine(w io.Writer) {
	m := r.machine
	fmt.Fprintf(w, "- %s, %s, %s\n", m.date, m.cpu, m.kernel)
	fmt.Fprintf(w, "- egress at %s, Go %s\n", m.commit, m.goVersion)
	fmt.Fprintf(w, "- `%s`: median (lowest–highest) of %d rounds, ratios round by round; of memory %d repetitions", m.command, r.rounds, r.repeats)
	fmt.Fprintln(w)
	if r.scale < 1 {
		fmt.Fprintf(w, "- **at %g of the usual load: too little for the figures to mean much**\n", r.scale)
	}
	for _, v := range r.versions {
		fmt.Fprintf(w, "- %s\n", v)
	}
}

// reportGoals writes the table of goals, unless nothing of it was measured.
func (r *results) reportGoals(w io.Writer) {
	fmt.Fprint(w, "\n## Goals\n\n| figure of egress | goal | measured | |\n| --- | --- | --- | --- |\n")
	for _, g := range goals {
		value, met, ok := g.judge(r)
		verdict := "**missed**"
		switch {
		case !ok:
			value, verdict = "–", "not measured"
			if strings.Contains(g.figure, "forwardproxy") {
				verdict += ": not available"
			}
		case met:
			verdict = "met"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", g.figure, g.want, value, verdict)
	}
}

// reportCPU writes a table for each experiment.
func (r *results) reportCPU(w io.Writer) {
	if len(r.cpu) > 0 {
		fmt.Fprint(w, "\n## Processor time per operation\n")
	}
	for _, row := range r.cpu {
		e := row.experiment
		if len(row.series) == 0 {
			continue
		}
		first := row.series[0]
		columns := []string{"subject", "user + system, " + e.unit, "of it user", first.subject + " ÷ it"}
		if e.latency {
			columns = append(columns, "median latency, µs", "p99 latency, µs", "p99: "+first.subject+" ÷ it")
		}
		columns = append(columns, "errors")
		fmt.Fprintf(w, "\n### %s\n\n| %s |\n|%s\n", e.name, strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
		for i := range row.series {
			fmt.Fprintf(w, "| %s |\n", strings.Join(cpuCells(e, &first, &row.series[i], i == 0), " | "))
		}
	}
}

// cpuCells are the cells of a line about one subject. first is the one that all
// are compared with.
func cpuCells(e experiment, first, s *series, isFirst bool) []string {
	cells := []string{s.subject}
	if len(s.total) == 0 {
		cells = append(cells, "–", "–", "–")
	} else {
		cells = append(cells, spreadOf(s.total).format(e.digits), fmt.Sprintf("%.*f", e.digits, spreadOf(s.user).median),
			ratioCell(first.total, s.total, isFirst))
	}
	if e.latency {
		cells = append(cells, valueCell(s.p50, 0), valueCell(s.p99, 0), ratioCell(first.p99, s.p99, isFirst))
	}
	return append(cells, errorCell(s.errors, s.first))
}

func ratioCell(of, by []float64, self bool) string {
	ratios := paired(of, by)
	if self || len(ratios) == 0 {
		return "–"
	}
	return spreadOf(ratios).format(2)
}

// errorCell must be 0 for a line to mean anything.
func errorCell(n int64, first string) string {
	if n == 0 {
		return "0"
	}
	first = strings.ReplaceAll(strings.Join(strings.Fields(first), " "), "|", "\\|")
	return fmt.Sprintf("**%d**: %s", n, first)
}

// reportMemory writes a table for each group of figures.
func (r *results) reportMemory(w io.Writer) {
	if len(r.memory) > 0 {
		fmt.Fprint(w, "\n## Memory\n")
	}
	for _, group := range distinct(r.memory, func(f memoryFigure) string { return f.group }) {
		figures := slices.DeleteFunc(slices.Clone(r.memory), func(f memoryFigure) bool { return f.group != group })
		keys := distinct(figures, func(f memoryFigure) string { return f.key })
		fmt.Fprintf(w, "\n### %s\n\n| subject |", group)
		for _, f := range figures[:len(keys)] {
			fmt.Fprintf(w, " %s |", strings.TrimSuffix(f.what+", "+f.unit, ", "))
		}
		fmt.Fprintf(w, " errors |\n| --- |%s\n", strings.Repeat(" --- |", len(keys)+1))
		for line := range slices.Chunk(figures, len(keys)) {
			fmt.Fprintf(w, "| %s |", line[0].subject)
			for _, f := range line {
				fmt.Fprintf(w, " %s |", valueCell(f.values, f.digits))
			}
			fmt.Fprintf(w, " %s |\n", errorCell(line[0].errors, line[0].first))
		}
	}
}

func valueCell(values []float64, digits int) string {
	if len(values) == 0 {
		return "–"
	}
	return spreadOf(values).format(digits)
}

// distinct are the different values of a property, in their order.
func distinct(figures []memoryFigure, of func(memoryFigure) string) (all []string) {
	for _, f := range figures {
		if !slices.Contains(all, of(f)) {
			all = append(all, of(f))
		}
	}
	return all
}
