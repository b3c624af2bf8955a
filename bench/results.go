//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// results are everything that a run of the benchmark has brought.
type results struct {
	machine
	rounds, repeats int
	scale           float64
	cpu             []cpuRow
	memory          []memoryFigure
	versions        []string
	skipped         []string
}

// cpuRow is what the rounds of one experiment have brought.
type cpuRow struct {
	experiment experiment
	series     []series
}

// series returns what an experiment has brought for a subject, nil where it was
// not measured.
func (r *results) series(key, subject string) *series {
	for _, row := range r.cpu {
		if row.experiment.key != key {
			continue
		}
		for i := range row.series {
			if row.series[i].subject == subject {
				return &row.series[i]
			}
		}
	}
	return nil
}

// figure returns a figure about memory, nil where it was not measured.
func (r *results) figure(key, subject string) *memoryFigure {
	i := slices.IndexFunc(r.memory, func(f memoryFigure) bool { return f.key == key && f.subject == subject })
	if i < 0 {
		return nil
	}
	return &r.memory[i]
}

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
	return fmt.Sprintf("%s (%s–%s)", number(s.median, digits), number(s.min, digits), number(s.max, digits))
}

// number writes a number, a small negative one as 0.
func number(v float64, digits int) string {
	text := strconv.FormatFloat(v, 'f', digits, 64)
	if strings.Trim(text, "-0.") == "" {
		return strings.TrimPrefix(text, "-")
	}
	return text
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

// machine is where, when and of what the figures are.
type machine struct{ date, cpu, kernel, commit, command, goVersion string }

func thisMachine(l *lab) machine {
	return machine{
		date: time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		cpu:  fmt.Sprintf("%d × %s", runtime.NumCPU(), cpuModel()),
		kernel: fmt.Sprintf("Linux %s, load %s at the start", firstWords("/proc/sys/kernel/osrelease", 1),
			firstWords("/proc/loadavg", 3)),
		commit:    egressVersion(l),
		command:   strings.Join(append([]string{"go run ./bench"}, os.Args[1:]...), " "),
		goVersion: strings.TrimPrefix(runtime.Version(), "go"),
	}
}

// egressVersion is the commit of this module, with a word about changes that
// are not in it. Without a repository it is unknown.
func egressVersion(l *lab) string {
	git := func(args ...string) string {
		cmd := exec.CommandContext(l.ctx, "git", append([]string{"-C", l.source}, args...)...)
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	commit := git("rev-parse", "--short=12", "HEAD")
	if commit != "" && git("status", "--porcelain") != "" {
		commit += " with changes"
	}
	return cmp.Or(commit, "unknown commit")
}

func caddyVersion(l *lab) string {
	return "Caddy " + moduleVersion(l.refcaddy, "github.com/caddyserver/caddy/v2")
}

func goproxyVersion(l *lab) string { return moduleVersion(l.goproxy, "github.com/elazarl/goproxy") }

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
	return "unknown version"
}

// output has a program tell its version: the first line with a digit in it.
func output(program, flag string) func(*lab) string {
	return func(l *lab) string {
		path, err := lookPath(program)
		if err != nil {
			return "unknown version"
		}
		said, _ := exec.CommandContext(context.WithoutCancel(l.ctx), path, flag).CombinedOutput()
		for line := range bytes.Lines(said) {
			if bytes.ContainsAny(line, "0123456789") {
				return strings.TrimSpace(string(line))
			}
		}
		return "unknown version"
	}
}

// versions are those of the subjects that were looked at and are there.
func (l *lab) versions() (all []string) {
	for _, s := range subjects() {
		if why, known := l.absent[s.name]; known && why == nil && s.version != nil {
			all = append(all, fmt.Sprintf("%s: %s", s.name, s.version(l)))
		}
	}
	return all
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
