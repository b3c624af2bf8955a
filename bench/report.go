//go:build linux

package main

import (
	"cmp"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// spread is the median of some numbers, and their range.
type spread struct{ median, min, max float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	half := len(s) / 2
	median := s[half]
	if len(s)%2 == 0 {
		median = (s[half-1] + s[half]) / 2
	}
	return spread{median, s[0], s[len(s)-1]}
}

// format writes the median with its range, with so many digits behind the
// point.
func (s spread) format(digits int) string {
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.median, digits, s.min, digits, s.max)
}

// paired returns the ratios of two series, round by round: what disturbs a
// round disturbs both.
func paired(of, by []float64) []float64 {
	var ratios []float64
	for i := range min(len(of), len(by)) {
		if by[i] > 0 {
			ratios = append(ratios, of[i]/by[i])
		}
	}
	return ratios
}

// goal is the most that a ratio may be.
type goal struct {
	key, of, by string
	most        float64
}

var goals = []goal{
	{"get", egress, transport, 0.6},
	{"get", egress, caddyRespond, 1.6},
	{"connect", egress, bareRelay, 1.3},
	{"tunnel", egress, bareRelay, 1.05},
}

// references are the subjects that others are divided by.
var references = []string{transport, caddyRespond, bareRelay}

// cpuRow is what the rounds of one experiment have brought.
type cpuRow struct {
	experiment experiment
	series     []series
}

// reportCPU prints the table of processor time.
func reportCPU(w io.Writer, rows []cpuRow) {
	fmt.Fprintf(w, "\n| CPU per operation | subject | user + system | of it user | ÷ %s | errors |\n", strings.Join(references, " | ÷ "))
	fmt.Fprintf(w, "| --- | --- | --- | --- |%s --- |\n", strings.Repeat(" --- |", len(references)))
	for _, row := range rows {
		digits := 0
		if row.experiment.unit == "s" {
			digits = 2
		}
		for _, s := range row.series {
			fmt.Fprintf(w, "| %s | %s | %s %s | %.*f |", row.experiment.name, s.subject,
				spreadOf(s.total).format(digits), row.experiment.unit, digits, spreadOf(s.user).median)
			for _, name := range references {
				fmt.Fprintf(w, " %s |", ratioCell(row, s, name))
			}
			fmt.Fprintf(w, " %s |\n", errorCell(s.errors, s.first))
		}
	}
}

// ratioCell is the paired ratio to a reference, with the goal if there is one.
func ratioCell(row cpuRow, s series, reference string) string {
	i := slices.IndexFunc(row.series, func(r series) bool { return r.subject == reference })
	if i < 0 || s.subject == reference {
		return "–"
	}
	ratio := spreadOf(paired(s.total, row.series[i].total))
	text := ratio.format(2)
	for _, g := range goals {
		if g.key == row.experiment.key && g.of == s.subject && g.by == reference {
			text += fmt.Sprintf(", goal ≤ %.2f", g.most)
		}
	}
	return text
}

func errorCell(n int64, first string) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("**%d**: %s", n, first)
}

// memoryRow is a line of the table of memory.
type memoryRow struct{ what, subject, value, errors string }

func reportMemory(w io.Writer, rows []memoryRow) {
	fmt.Fprint(w, "\n| memory | subject | value | errors |\n| --- | --- | --- | --- |\n")
	for _, r := range rows {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", r.what, r.subject, r.value, r.errors)
	}
}

func (r idleResult) rows(subject string) []memoryRow {
	errors := errorCell(r.errors, r.first)
	return []memoryRow{
		{"idle tunnel, of 3,000: user memory, settled", subject, spreadOf(r.settled).format(1) + " KiB", errors},
		{"idle tunnel, of 3,000: user memory, as found", subject, spreadOf(r.asFound).format(1) + " KiB", errors},
		{"idle tunnel, of 3,000: descriptors", subject, spreadOf(r.descriptors).format(2), errors},
	}
}

func (r slowResult) rows(subject string) []memoryRow {
	return []memoryRow{{
		"1 GiB response, read slowly: most growth", subject,
		spreadOf(r.growth).format(1) + " MiB", errorCell(r.errors, r.first),
	}}
}

// reportMachine prints where and when.
func reportMachine(w io.Writer, refcaddy string, rounds int) {
	fmt.Fprintf(w, "%s, %d × %s, Linux %s, load %s\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), cpuModel(),
		firstWords("/proc/sys/kernel/osrelease", 1), firstWords("/proc/loadavg", 3))
	fmt.Fprintf(w, "%s, Caddy %s; median (lowest–highest) of %d rounds, ratios round by round\n",
		runtime.Version(), moduleVersion(refcaddy, "github.com/caddyserver/caddy/v2"), rounds)
}

// moduleVersion is the version of a module in a binary.
func moduleVersion(binary, module string) string {
	info, err := buildinfo.ReadFile(binary)
	if err == nil {
		for _, m := range info.Deps {
			if m.Path == module {
				return m.Version
			}
		}
	}
	return "unknown"
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// firstWords returns the first words of a file.
func firstWords(path string, n int) string {
	text, _ := os.ReadFile(path)
	words := strings.Fields(string(text))
	return cmp.Or(strings.Join(words[:min(n, len(words))], " "), "unknown")
}
