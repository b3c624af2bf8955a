//go:build linux

// Command bench measures what egress costs: processor time per request and per
// tunnel, and memory. See README.md.
//
// The files, from the outside in:
//
//	main.go            which measurements are made
//	report.go          medians, paired ratios, tables
//	measure.go         rounds of load, processor time
//	measure_memory.go  idle tunnels, slow readers
//	proxies.go         the subjects: what is measured, and how it is started
//	proc.go            what /proc tells about a process
//	child.go           processes that are parts of the benchmark itself:
//	origin.go          - the origin
//	load*.go           - the load generator
//	relay.go           - the bare relay, the floor for tunnels
//	message.go         HTTP/1.1, just enough for origin and generator
//	pattern.go         the bytes of bodies, and their check
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// parts are the processes that the benchmark runs itself as.
var parts = map[string]func(args []string) error{
	"origin": originMain,
	"load":   loadMain,
	"relay":  relayMain,
}

func main() {
	err := dispatch()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch() error {
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			return part(os.Args[2:])
		}
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	return bench(ctx)
}

func bench(ctx context.Context) error {
	rounds := flag.Int("rounds", 7, "measured rounds of each experiment")
	repeats := flag.Int("repeats", 3, "repetitions of each measurement of memory")
	scale := flag.Float64("scale", 1, "how many operations a round has, compared with the usual number")
	only := flag.String("only", "", "comma-separated: get, post, connect, tunnel, idle, slow")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 1 || *repeats < 1 {
		flag.Usage()
		return errors.New("bad arguments")
	}
	wanted := func(key string) bool { return *only == "" || slices.Contains(strings.Split(*only, ","), key) }

	dir, err := os.MkdirTemp("", "egress-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := newLab(ctx, dir)
	if err != nil {
		return err
	}
	defer l.origin.stop()

	var cpuRows []cpuRow
	for _, e := range experiments(*scale) {
		if !wanted(e.key) {
			continue
		}
		s, err := l.run(e, *rounds, progress)
		if err != nil {
			return err
		}
		cpuRows = append(cpuRows, cpuRow{e, s})
	}
	memoryRows, err := l.memoryRows(wanted, *repeats)
	if err != nil {
		return err
	}
	reportMachine(os.Stdout, l.refcaddy, *rounds)
	if len(cpuRows) > 0 {
		reportCPU(os.Stdout, cpuRows)
	}
	if len(memoryRows) > 0 {
		reportMemory(os.Stdout, memoryRows)
	}
	return nil
}

// memoryRows makes the measurements of memory.
func (l *lab) memoryRows(wanted func(string) bool, repeats int) (rows []memoryRow, err error) {
	if wanted("idle") {
		for _, name := range []string{egress, bareRelay} {
			progress("idle tunnels: " + name)
			r, err := l.idle(name, repeats)
			if err != nil {
				return nil, err
			}
			rows = append(rows, r.rows(name)...)
		}
	}
	if wanted("slow") {
		for _, name := range []string{egress, transport} {
			progress("slow reader: " + name)
			r, err := l.slow(name, repeats)
			if err != nil {
				return nil, err
			}
			rows = append(rows, r.rows(name)...)
		}
	}
	return rows, nil
}

func progress(text string) { fmt.Fprintln(os.Stderr, text) }
