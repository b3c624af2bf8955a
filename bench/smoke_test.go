//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/raceflag"
)

// TestMain lets the test be the parts that the benchmark runs itself as.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			if err := part(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				os.Exit(1)
			}
			return
		}
	}
	code := m.Run()
	if testLab != nil {
		testLab.origin.stop()
		os.RemoveAll(testLab.dir)
	}
	os.Exit(code)
}

// testLab is for all tests: it takes its time to build. TestMain clears it up.
var testLab *lab

func theLab(t *testing.T) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a proxy")
	}
	if raceflag.On {
		t.Skip("the race detector sees nothing of the subjects, which are other programs, and the load has tests of its own")
	}
	if testLab != nil {
		return testLab
	}
	dir, err := os.MkdirTemp("", "egress-bench-test-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLab(context.Background(), dir)
	if err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	l.hasty = true
	testLab = l
	return l
}

// TestEachSubjectBearsItsLoads starts every subject and gives it, once and
// small, each load that the benchmark has for it.
func TestEachSubjectBearsItsLoads(t *testing.T) {
	l := theLab(t)
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			if !l.present(s.name) {
				if os.Getenv("EGRESS_REQUIRE_PEERS") == "1" && !s.optional {
					t.Fatalf("EGRESS_REQUIRE_PEERS is set and there is no %s: %v", s.name, l.absent[s.name])
				}
				t.Skip(l.absent[s.name])
			}
			p, err := l.start(s.name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.stop)
			for _, e := range experimentsOf(s.name) {
				l.smoke(t, p, e)
			}
		})
	}
}

// experimentsOf are those that a subject takes part in, made small.
func experimentsOf(name string) (own []experiment) {
	for _, e := range experiments(1) {
		for _, subject := range e.subjects {
			if subject != name {
				continue
			}
			e.load.Conns = min(e.load.Conns, 4)
			e.load.N = min(e.load.N, 16)
			e.load.Size = min(e.load.Size, oneMiB)
			own = append(own, e)
		}
	}
	return own
}

func (l *lab) smoke(t *testing.T, p *proxy, e experiment) {
	t.Helper()
	_, result, err := l.measure(p, e)
	if err != nil || result.OK != e.load.N || result.Errors > 0 {
		t.Errorf("%s: %+v, %v; want %d without errors", e.name, result, err, e.load.N)
	}
	if e.latency && (result.P50 <= 0 || result.P99 < result.P50) {
		t.Errorf("%s: median %v µs, p99 %v µs", e.name, result.P50, result.P99)
	}
}

// TestMemoryIsMeasured makes each measurement of memory once and small, of
// egress.
func TestMemoryIsMeasured(t *testing.T) {
	l := theLab(t)
	for _, m := range memoryRuns(0.01) {
		t.Run(m.key, func(t *testing.T) {
			m.subjects = m.subjects[:1]
			figures, err := l.runMemory(m, 1)
			if err != nil || len(figures) != len(m.figures) {
				t.Fatalf("%d figures, %v, skipped %q", len(figures), err, l.skipped)
			}
			for _, f := range figures {
				if len(f.values) != 1 || f.errors > 0 {
					t.Errorf("%s: values %v, %d errors: %s", f.what, f.values, f.errors, f.first)
				}
			}
		})
	}
}
