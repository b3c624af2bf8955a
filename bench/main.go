//go:build linux

// Command bench measures what egress costs, next to other proxies: processor
// time per request and per tunnel, latency and memory. See README.md.
//
// The files, from the outside in:
//
//	main.go            which measurements are made
//	experiments.go     processor time: the loads and who bears them
//	measure.go         - rounds of load
//	measure_memory.go  memory: slow readers
//	measure_idle.go    - idle tunnels and connections, many hosts
//	measure_watched.go - metrics and snapshots
//	subjects.go        what is measured
//	lab.go             what the subjects have in common
//	caddy.go           - how each Caddy is started
//	peers.go           - how the others are started, and installed
//	proc.go            what /proc tells about a process
//	results.go         what all that has brought: medians, paired ratios
//	goals.go           - what is wanted of it
//	report.go          - Markdown
//	chart.go           - SVG
//	child.go           processes that are parts of the benchmark itself:
//	origin*.go         - the origin
//	load*.go           - the load generator
//	relay.go           - the bare relay, the floor for tunnels
//	message.go         HTTP/1.1, just enough for origin and generator
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
	"time"
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
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	return o.bench(ctx)
}

// options are what the command line says.
type options struct {
	rounds, repeats int
	scale           float64
	only            []string // keys; empty: all
	out             string   // directory of the report; empty: none
	install, quick  bool
}

func parseOptions(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 5, "measured rounds of each experiment")
	f.IntVar(&o.repeats, "repeats", 2, "repetitions of each measurement of memory")
	f.Float64Var(&o.scale, "scale", 1, "how much load a round has, compared with the usual")
	f.StringVar(&o.out, "out", "", "directory to write "+reportFile+" and "+chartFile+" to")
	f.BoolVar(&o.install, "install", false, "install the programs that are missing (Debian, as root)")
	f.BoolVar(&o.quick, "quick", false, "everything once and small: shows that it works, measures nothing")
	only := f.String("only", "", "comma-separated: "+strings.Join(keys(), ", "))
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	for _, key := range o.only {
		if !slices.Contains(keys(), key) {
			return o, fmt.Errorf("-only: no measurement %q; there are %s", key, strings.Join(keys(), ", "))
		}
	}
	if o.quick {
		o.rounds, o.repeats, o.scale = 1, 1, 0.02
	}
	if f.NArg() > 0 || o.rounds < 1 || o.repeats < 1 || o.scale <= 0 {
		return o, errors.New("bad arguments: nothing but flags, and at least 1 round, 1 repetition and a scale above 0")
	}
	return o, nil
}

// keys are the measurements that -only can name.
func keys() (all []string) {
	for _, e := range experiments(1) {
		all = append(all, e.key)
	}
	for _, m := range memoryRuns(1) {
		all = append(all, m.key)
	}
	return all
}

func (o options) wants(key string) bool { return len(o.only) == 0 || slices.Contains(o.only, key) }

// bench measures and reports.
func (o options) bench(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "egress-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.install {
		if err := install(ctx); err != nil {
			return err
		}
	}
	l, err := newLab(ctx, dir)
	if err != nil {
		return err
	}
	defer l.origin.stop()
	l.hasty = o.quick
	start := time.Now()
	r := &results{machine: thisMachine(l), rounds: o.rounds, repeats: o.repeats, scale: o.scale}
	if err := o.measure(l, r); err != nil {
		return err
	}
	r.versions, r.skipped = l.versions(), l.skipped
	progress(fmt.Sprintf("measured for %v", time.Since(start).Round(time.Second)))
	if o.out != "" {
		if err := r.write(o.out); err != nil {
			return err
		}
	}
	r.report(os.Stdout, false)
	return nil
}

// measure makes the measurements that are wanted.
func (o options) measure(l *lab, r *results) error {
	for _, e := range experiments(o.scale) {
		if !o.wants(e.key) || e.needs != "" && !l.present(e.needs) {
			continue
		}
		s, err := l.run(e, o.rounds, progress)
		if err != nil {
			return err
		}
		r.cpu = append(r.cpu, cpuRow{e, s})
	}
	for _, m := range memoryRuns(o.scale) {
		if !o.wants(m.key) {
			continue
		}
		figures, err := l.runMemory(m, o.repeats)
		if err != nil {
			return err
		}
		r.memory = append(r.memory, figures...)
	}
	return nil
}

func progress(text string) { fmt.Fprintln(os.Stderr, text) }
