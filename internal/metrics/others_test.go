package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/upstream"
)

// manyOf is a handler with one group of so many upstreams, each with a check that it passed.
func manyOf(place string, members int) *fakeHandler {
	h := &fakeHandler{place: place}
	g := upstream.Report{Name: "g"}
	for i := range members {
		m := upstream.MemberReport{ID: fmt.Sprint(i), Name: fmt.Sprint("http://", i), Known: time.Unix(1, 0)}
		m.Counts.Checks[0] = 10
		g.Members = append(g.Members, m)
	}
	h.report.Groups = []upstream.Report{g}
	return h
}

// The sum of what has no series of its own does not fall when some of it goes, takes in what
// is new, and nothing of what was told elsewhere before.
func TestOthers_Monotone(t *testing.T) {
	h := manyOf(t.Name(), maxMembers+20)
	series := func() float64 {
		return scraped(t, h)[`caddy_egress_upstream_checks_total{group="g",handler="`+h.place+`",result="passed",upstream="_other"}`]
	}
	want := func(what string, n float64) {
		t.Helper()
		if got := series(); got != n {
			t.Errorf("%s: %v, want %v", what, got, n)
		}
	}
	g := &h.report.Groups[0]
	want("at first", 200)
	g.Members = g.Members[:maxMembers+10]
	want("10 are gone", 200)
	for i := range g.Members {
		g.Members[i].Counts.Checks[0]++
	}
	want("all were checked", 210)
	last := upstream.MemberReport{ID: "new", Name: "http://new", Known: time.Now().Add(time.Hour)}
	last.Counts.Checks[0] = 3
	g.Members = append([]upstream.MemberReport{g.Members[0]}, append(g.Members[2:], last)...)
	want("one is new, and one has moved up", 213)
	g.Members = append(g.Members[1:], g.Members[0])
	want("one has moved down", 213)
	stale := g.Members[maxMembers+3]
	stale.Counts.Checks[0] -= 2
	g.Members[maxMembers+3] = stale
	want("a scrape that was overtaken", 213)
	g.Members = g.Members[:3]
	want("all are gone", 213)
}

func TestOthers_Rules(t *testing.T) {
	h := &fakeHandler{place: t.Name()}
	for i := range maxRules + 10 {
		h.rules.Rules = append(h.rules.Rules, acl.RuleReport{Text: fmt.Sprint("deny ", i), Hits: 5})
	}
	name := `caddy_egress_decisions_total{action="deny",handler="` + h.place + `",rule="_other"}`
	for _, c := range []struct {
		rules int
		want  float64
	}{{maxRules + 10, 50}, {maxRules + 4, 50}, {maxRules, 50}} {
		h.rules.Rules = h.rules.Rules[:c.rules]
		if got := scraped(t, h)[name]; got != c.want {
			t.Errorf("%d rules: %v, want %v", c.rules, got, c.want)
		}
	}
}

// What is counted of a group is forgotten when no configuration has it and its last tunnel has
// ended; that of others is not.
func TestGroups_Forgotten(t *testing.T) {
	place := t.Name()
	first := Acquire(place, []string{"old", "kept"}, nil)
	request := func(u *Use, group string) *core.Request {
		r := &core.Request{Use: upstream.Tunnel, Outcome: core.Outcome{Attempts: 1, Group: group, Upstream: "http://u", Status: 200}}
		u.Begin(r.Use)
		u.Ended(r)
		return r
	}
	ended := first.Stands(request(first, "old"))
	request(first, "kept")
	second := Acquire(place, []string{"kept", "new"}, nil)
	request(second, "new")
	first.Release()
	told := func(group string) bool {
		for name := range scraped(t) {
			if labelled(name, "handler", place) && labelled(name, "group", group) {
				return true
			}
		}
		return false
	}
	if !told("old") || !told("kept") || !told("new") {
		t.Error("a group is forgotten while it has a tunnel")
	}
	ended(relay.Result{Reason: relay.ReasonClient})
	if told("old") || !told("kept") || !told("new") {
		t.Errorf("old is told: %v; kept: %v; new: %v", told("old"), told("kept"), told("new"))
	}
	third := Acquire(place, []string{"old"}, nil)
	request(third, "old")
	second.Release()
	if !told("old") || told("kept") || told("new") {
		t.Errorf("old is told: %v; kept: %v; new: %v", told("old"), told("kept"), told("new"))
	}
	third.Release()
	if told("old") {
		t.Error("the handler is gone")
	}
}

// scraped are the counters and gauges that a scrape brings, by name and labels.
func scraped(t *testing.T, handlers ...Handler) map[string]float64 {
	t.Helper()
	values := make(map[string]float64)
	for _, f := range gather(t, handlers...) {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			values[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

func labelled(name, label, value string) bool {
	return strings.Contains(name, fmt.Sprintf("%s=%q", label, value))
}

// Names that are no text, or that two things share, cost nobody the scrape.
func TestScrape_OddNames(t *testing.T) {
	h := &fakeHandler{place: t.Name()}
	h.report.Groups = []upstream.Report{{Name: "g", Members: []upstream.MemberReport{{Name: "http+unix:///a#2"}, {Name: "http+unix:///a#2"}, {Name: "http+unix:///\xff"}}}}
	h.rules.Rules = []acl.RuleReport{{Text: "deny_file /\xff\xfe", File: &acl.File{Path: "/\xff\xfe", Entries: 3}}}
	got := scraped(t, h)
	for _, name := range []string{
		`caddy_egress_rules_entries{file="/\\xff\\xfe",handler="` + h.place + `"}`,
		`caddy_egress_upstreams_healthy{group="g",handler="` + h.place + `",upstream="http+unix:///a#2"}`,
		`caddy_egress_upstreams_healthy{group="g",handler="` + h.place + `",upstream="http+unix:///\\xff"}`,
	} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not told", name)
		}
	}
}
