package status

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/failure"
)

// This file contains the sentence on top.

// Levels of how things are.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelBad  = "bad"
)

// sentence is how things are, in a few words.
type sentence struct{ Level, Text string }

// culprit is who failures are charged to.
type culprit struct {
	name string
	n    uint64
}

// blamed are the names of those that failures are charged to. What clients ask for that is
// not allowed, and what they do wrong, is no trouble of ours.
var blamed = map[failure.Blame]string{
	failure.BlameDNS: "DNS", failure.BlameOrigin: "origins", failure.BlameUpstream: "upstreams",
	failure.BlameNetwork: "the network", failure.BlameProxy: "this proxy",
}

// sentenceOf tells how things are: now, and over the last 5 minutes.
func sentenceOf(o *admin.Overview, all []*sample) sentence {
	if o.Emergency.On {
		return sentence{levelBad, "Emergency: all new requests are denied."}
	}
	var parts []string
	level := levelOK
	if gone := o.Troubles.Gone; len(gone) > 0 {
		for _, name := range gone[:min(len(gone), maxNamed)] {
			parts = append(parts, fmt.Sprintf("Group %s has no upstream left.", name))
		}
		if more := len(gone) - maxNamed; more > 0 {
			parts = append(parts, counted(more, "further group has", "further groups have")+" none left either.")
		}
		level = levelBad
	}
	if out := o.Troubles.Out; out > 0 {
		parts, level = append(parts, counted(out, "upstream is", "upstreams are")+" out of rotation."), cmp.Or(worse(level), levelWarn)
	}
	requests, failed, who := trouble(all)
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s failed in 5 minutes: %s.", failed, counted(int(requests), "request", "requests"), shares(who)))
		level = cmp.Or(worse(level), levelWarn)
		if failed*2 > requests {
			level = levelBad
		}
	}
	if len(parts) == 0 {
		return sentence{levelOK, fmt.Sprintf("All well: %s in 5 minutes, and none failed that should not.", counted(int(requests), "request", "requests"))}
	}
	return sentence{level, strings.Join(parts, " ")}
}

// worse is a level that a warning does not change.
func worse(level string) string {
	if level == levelBad {
		return level
	}
	return ""
}

// trouble tells how many requests there were, how many failed, and through whose fault. What
// was counted of a handler that is gone is forgotten with it.
func trouble(all []*sample) (requests, failed uint64, who []culprit) {
	from, to := since(all)
	for way, t := range to.totals.Ways {
		var before uint64
		if b := from.totals.Ways[way]; b != nil {
			before = b.Requests
		}
		requests += grown(before, t.Requests)
	}
	by := make(map[failure.Blame]uint64)
	for charge, n := range to.totals.Failures {
		by[failure.Blame(charge.Blame)] += grown(from.totals.Failures[charge], n)
	}
	for _, blame := range slices.Sorted(maps.Keys(blamed)) {
		n := by[blame]
		failed += n
		if blame == failure.BlameUpstream && n > 0 {
			who = append(who, upstreamsToBlame(from, to, n)...)
		} else if n > 0 {
			who = append(who, culprit{blamed[blame], n})
		}
	}
	slices.SortStableFunc(who, func(a, b culprit) int { return cmp.Compare(b.n, a.n) })
	return max(requests, failed), failed, who
}

// maxNamed is how many upstreams, and groups, the sentence names.
const maxNamed = 3

// upstreamsToBlame divides failures among the upstreams by the attempts that have failed
// there.
func upstreamsToBlame(from, to *sample, failures uint64) []culprit {
	var who []culprit
	var sum uint64
	for id, c := range to.failed {
		if n := grown(from.failed[id].n, c.n); n > 0 {
			who, sum = append(who, culprit{c.name, n}), sum+n
		}
	}
	if len(who) == 0 || len(who) > maxNamed {
		return []culprit{{blamed[failure.BlameUpstream], failures}}
	}
	for i := range who {
		who[i].n = max(1, uint64(math.Round(float64(who[i].n)*float64(failures)/float64(sum))))
	}
	slices.SortFunc(who, func(a, b culprit) int { return cmp.Compare(a.name, b.name) })
	return who
}

// shares writes who is to blame for which part.
func shares(who []culprit) string {
	var all uint64
	for _, c := range who {
		all += c.n
	}
	var parts []string
	for _, c := range who {
		parts = append(parts, fmt.Sprintf("%s %.0f%%", c.name, 100*float64(c.n)/float64(all)))
	}
	return strings.Join(parts, ", ")
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
