package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report writes what a run has brought.
func (r *result) report(out io.Writer) {
	t := r.tally
	fmt.Fprintf(out, "%s for %v at %g requests a second, seed %d\n\n", r.mode, r.length, r.rate, r.seed)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tstart\tend")
	for _, row := range []struct {
		name       string
		start, end string
	}{
		{"RSS", size(r.start.rss), size(r.end.rss)},
		{"heap in use, after a collection", size(r.start.heap), size(r.end.heap)},
		{"goroutines", count(r.start.goroutines), count(r.end.goroutines)},
		{"descriptors", count(r.start.open), count(r.end.open)},
		{"requests in flight", count(r.start.inFlight), count(r.end.inFlight)},
		{"exchanges through upstreams", count(int(r.start.exchanges)), count(int(r.end.exchanges))},
		{"tunnels through upstreams", count(int(r.start.tunnels)), count(int(r.end.tunnels))},
		{"requests", "0", count(t.requests)},
		{"  whole, or refused as they must be", "0", count(t.whole)},
		{"  not sent, too many under way", "0", count(t.skipped)},
		{"  failed, explained", "0", count(sum(t.reasons))},
		{"  failed, unexplained", "0", count(t.unknown)},
		{"reloads", "0", count(r.reloads)},
		{"upstreams killed and revived", "0", count(r.kills)},
		{"stalls of this machine", "0", count(r.stalls)},
		{"violations", "0", count(len(r.violations))},
	} {
		fmt.Fprintf(w, "%s\t%s\t%s\n", row.name, row.start, row.end)
	}
	w.Flush()
	fmt.Fprintf(out, "\nslowest whole one on a clean way: %v, %v\n", t.slowest.Round(time.Millisecond), t.slowestOf)
	r.reportLanes(out)
	if r.mode == modeFaults {
		fmt.Fprintln(out, "\nlinks:")
		for _, l := range r.links {
			fmt.Fprintf(out, "  %s: %v\n", l.name, l)
		}
	}
	list(out, "why requests failed", counts(t.reasons))
	list(out, "unexplained (the first of them)", t.unexplained)
	list(out, "violations", r.violations)
	if r.good() {
		fmt.Fprintln(out, "\nPASS")
	} else {
		fmt.Fprintf(out, "\nFAIL; see %s\n", r.dir)
	}
}

// reportLanes tells how requests ended, by what was between the ends. A ~ is a
// link that fails.
func (r *result) reportLanes(out io.Writer) {
	for _, lane := range slices.Sorted(maps.Keys(r.tally.lanes)) {
		list(out, lane, counts(r.tally.lanes[lane]))
	}
}

func list(out io.Writer, title string, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(out, "\n%s:\n  %s\n", title, strings.Join(lines, "\n  "))
	}
}

// counts are the lines of a table of counts, the largest first.
func counts(of map[string]int) (lines []string) {
	keys := slices.Sorted(maps.Keys(of))
	slices.SortStableFunc(keys, func(a, b string) int { return of[b] - of[a] })
	for _, key := range keys {
		lines = append(lines, fmt.Sprintf("%6d  %s", of[key], key))
	}
	return lines
}

func sum(of map[string]int) (n int) {
	for _, v := range of {
		n += v
	}
	return n
}

func size(n int64) string { return fmt.Sprintf("%.1f MiB", mib(n)) }
func count(n int) string  { return fmt.Sprint(n) }
