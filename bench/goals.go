//go:build linux

package main

import (
	"fmt"
	"strings"
)

// goal is something that egress wants to be measured as.
type goal struct {
	figure, want string
	// judge looks at the results: what was measured, and whether that is what is
	// wanted. ok is false where it was not measured.
	judge func(*results) (value string, met, ok bool)
}

var goals = []goal{
	notHere("GET CPU ÷ caddyserver/forwardproxy, tuned", "≤ 0.42"),
	notHere("GET CPU ÷ caddyserver/forwardproxy, as it comes", "≤ 0.28"),
	cpuRatio("GET CPU ÷ Squid", "get", egress, squid, 0.85),
	cpuRatio("GET CPU ÷ Caddy `respond`", "get", egress, caddyRespond, 1.6),
	p99Ratio("GET p99 at saturation ÷ Squid", "get", egress, squid, 1.2),
	notHere("POST 64 KiB CPU ÷ caddyserver/forwardproxy, tuned", "≤ 0.7"),
	cpuRatio("CONNECT CPU ÷ bare relay", "connect", egress, bareRelay, 1.3),
	notHere("CONNECT CPU ÷ caddyserver/forwardproxy", "≤ 0.8"),
	cpuRatio("tunnel CPU per GiB ÷ bare relay", "tunnel", egress, bareRelay, 1.05),
	atMost("idle tunnel", egress, limit{"idle", 11, "KiB"}, limit{"idle.descriptors", 2, "descriptors"}),
	atMost("idle pooled connection to an origin", egressKeeps, limit{"pooled", 1, "KiB"},
		limit{"pooled.goroutines", 0, "goroutines"}, limit{"pooled.descriptors", 1, "descriptors"}),
	cpuRatio("GET CPU through an HTTP upstream ÷ direct", "upstream", egressBehind, egress, 1.15),
	flatHosts(0.10),
}

// notHere is a goal against caddyserver/forwardproxy, which is no subject: it is
// not available where this runs.
func notHere(figure, want string) goal {
	return goal{figure, want, func(*results) (string, bool, bool) { return "", false, false }}
}

func cpuRatio(figure, key, of, by string, most float64) goal {
	return seriesRatio(figure, key, of, by, most, func(s *series) []float64 { return s.total })
}

func p99Ratio(figure, key, of, by string, most float64) goal {
	return seriesRatio(figure, key, of, by, most, func(s *series) []float64 { return s.p99 })
}

func seriesRatio(figure, key, of, by string, most float64, values func(*series) []float64) goal {
	return goal{figure, fmt.Sprintf("≤ %.2f", most), func(r *results) (string, bool, bool) {
		a, b := r.series(key, of), r.series(key, by)
		if a == nil || b == nil {
			return "", false, false
		}
		ratios := paired(values(a), values(b))
		if len(ratios) == 0 || a.errors+b.errors > 0 {
			return "there were errors", false, true
		}
		ratio := spreadOf(ratios)
		return ratio.format(2), ratio.median <= most, true
	}}
}

// limit is the most that a figure about memory may be.
type limit struct {
	key  string
	most float64
	unit string
}

// slack is how much more than a limit still counts as it: a descriptor that a
// proxy has opened for itself, say a log's, divided by thousands.
const slack = 0.01

func atMost(figure, subject string, limits ...limit) goal {
	var want []string
	for _, l := range limits {
		want = append(want, fmt.Sprintf("≤ %.0f %s", l.most, l.unit))
	}
	return goal{figure, strings.Join(want, ", "), func(r *results) (string, bool, bool) {
		var got []string
		met := true
		for _, l := range limits {
			f := r.figure(l.key, subject)
			if f == nil || len(f.values) == 0 {
				return "", false, false
			}
			if f.errors > 0 {
				return "there were errors", false, true
			}
			s := spreadOf(f.values)
			got = append(got, fmt.Sprintf("%s %s", s.format(f.digits), l.unit))
			met = met && s.median <= l.most+slack
		}
		return strings.Join(got, ", "), met, true
	}}
}

// flatHosts is that memory does not grow by more than a part of it from a tenth
// of the hosts to all of them.
func flatHosts(most float64) goal {
	return goal{
		"memory from a tenth of the distinct hosts to all", fmt.Sprintf("flat: at most +%.0f%%", 100*most),
		func(r *results) (string, bool, bool) {
			first, all := r.figure("hosts.first", egress), r.figure("hosts", egress)
			if first == nil || all == nil {
				return "", false, false
			}
			if first.errors+all.errors > 0 {
				return "there were errors", false, true
			}
			a, b := spreadOf(first.values).median, spreadOf(all.values).median
			if a <= 0 {
				return "", false, false
			}
			return fmt.Sprintf("%.1f → %.1f MiB (%+.0f%%)", a, b, 100*(b/a-1)), b <= a*(1+most), true
		},
	}
}
