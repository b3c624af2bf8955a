package metrics

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-egress/egress/internal/acl"
	"github.com/caddy-egress/egress/internal/auth"
	"github.com/caddy-egress/egress/internal/connpool"
	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/health"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/upstream"
)

// fakeHandler is a handler with a report that tests make up.
type fakeHandler struct {
	place  string
	report core.Report
	rules  acl.Report
}

func (h *fakeHandler) Place() string       { return h.place }
func (h *fakeHandler) Report() core.Report { return h.report }
func (h *fakeHandler) Rules() acl.Report   { return h.rules }

// handlerOf makes a handler with groups of so many upstreams, with counts in all there is
// to count.
func handlerOf(place string, groups, members int) *fakeHandler {
	h := &fakeHandler{place: place}
	h.report.Reload = new(core.Reload)
	for g := range groups {
		r := upstream.Report{Name: fmt.Sprint("group", g)}
		for m := range members {
			mr := upstream.MemberReport{Name: fmt.Sprintf("http://proxy%d.group%d.example:3128", m, g)}
			mr.Latency = time.Millisecond
			for i := range mr.Counts.Results {
				mr.Counts.Results[i] = 7
			}
			mr.Counts.Checks[1], mr.Counts.Checks[2] = 7, 7
			for i := range mr.Counts.Transitions {
				mr.Counts.Transitions[i] = 7
			}
			mr.Spares = [health.SpareCauses]uint64{7, 7}
			r.Members = append(r.Members, mr)
		}
		h.report.Groups = append(h.report.Groups, r)
	}
	return h
}

// busy makes requests on every way that the handler has, with every result that is usual.
func busy(u *Use, groups int) {
	clients := u.Clients()
	for range 2 {
		conn, _ := net.Pipe()
		clients.State(conn, http.StateNew)
		clients.State(conn, http.StateActive)
	}
	for g := -1; g < groups; g++ {
		o := core.Outcome{Attempts: 2, Dial: time.Millisecond, TTFB: time.Millisecond, Queue: time.Millisecond, BytesUp: 1, BytesDown: 1}
		if g >= 0 {
			o.Group, o.Upstream = fmt.Sprint("group", g), "http://proxy"
			o.Hedges, o.HedgeWon, o.Attempts = 2, true, 4
		}
		for _, use := range []upstream.Use{upstream.Exchange, upstream.Tunnel} {
			for _, end := range []struct {
				status uint16
				f      *failure.Failure
			}{{200, nil}, {304, nil}, {404, nil}, {500, nil}, {502, failure.Terminated}, {504, failure.DialTimeout}, {0, failure.Canceled}} {
				t := &core.Request{Use: use, Outcome: o}
				t.Outcome.Status, t.Outcome.Failure = end.status, end.f
				u.Begin(use)
				u.Ended(t)
			}
		}
		for _, reason := range []relay.Reason{relay.ReasonClient, relay.ReasonOrigin, relay.ReasonIdle, relay.ReasonDrain, relay.ReasonClientError, relay.ReasonOriginError} {
			u.Stands(&core.Request{Use: upstream.Tunnel, Outcome: o})(relay.Result{Reason: reason})
		}
		to := u.Pool(o.Group)
		to.Dialed(nil)
		to.Dialed(errors.New("refused"))
		for reason := range connpool.Reasons {
			to.Closed(reason)
		}
	}
	for _, f := range []*failure.Failure{failure.Denied, failure.DeniedAddress, failure.DNS, failure.Refused, failure.Limit, failure.NoUpstream, failure.UpstreamConnect} {
		u.Begin(upstream.Exchange)
		u.Ended(&core.Request{User: "u", Outcome: core.Outcome{Failure: f, Status: uint16(f.Status), AuthFailure: auth.Failure("wrong")}})
	}
	for _, result := range []dial.Lookup{dial.Hit, dial.Negative, dial.Failed} {
		u.LookedUp(result)
		u.Resolved(time.Millisecond, result)
	}
	u.Handshaken(time.Millisecond, nil)
	u.Handshaken(time.Millisecond, errors.New("no"))
}

// gather returns what a scrape of handlers brings.
func gather(t testing.TB, handlers ...Handler) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := Register(registry, "v1", func() []Handler { return handlers }); err != nil {
		t.Fatal(err)
	}
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// seriesOf is how many series a Prometheus makes of a family, with classic buckets.
func seriesOf(f *dto.MetricFamily) (n int) {
	for _, m := range f.Metric {
		if h := m.GetHistogram(); h != nil {
			n += len(h.Bucket) + 3 // +Inf, sum, count
		} else {
			n++
		}
	}
	return n
}

// A configuration with 100 upstreams in 10 groups, all of which are busy and fail in the
// usual ways, and with 100 rules, has less than 5,000 series.
func TestSeriesAreBounded(t *testing.T) {
	const groups, limit = 10, 5000
	h := handlerOf(t.Name(), groups, 10)
	for i := range 100 {
		h.rules.Rules = append(h.rules.Rules, acl.RuleReport{Text: fmt.Sprintf("acl[%d]: deny host%d.example", i, i)})
	}
	u := Acquire(h.place, nil, nil)
	defer u.Release()
	busy(u, groups)
	total := 0
	for _, f := range gather(t, h) {
		n := seriesOf(f)
		t.Log(f.GetName(), n)
		total += n
	}
	t.Log(total)
	if total >= limit {
		t.Errorf("%d series, want less than %d", total, limit)
	}
	if total < limit/2 {
		t.Errorf("%d series: the test does not count what it should", total)
	}
}

// Every metric that there can be is in the catalogue, which the document is made of, with
// the type and the labels that it says; and each one of the catalogue can be seen.
func TestCatalogueIsComplete(t *testing.T) {
	h := handlerOf(t.Name(), 2, 2)
	h.rules.Rules = []acl.RuleReport{{Text: "acl[0]: deny_file x", File: &acl.File{Path: "x", Entries: 3}}}
	u := Acquire(h.place, nil, []string{"alice"})
	defer u.Release()
	busy(u, 2)
	seen := make(map[string]bool)
	for _, f := range gather(t, h) {
		seen[f.GetName()] = true
		var entry *Entry
		for i := range catalogue {
			if catalogue[i].Name == f.GetName() {
				entry = &catalogue[i]
			}
		}
		if entry == nil {
			t.Errorf("%s is not in the catalogue", f.GetName())
			continue
		}
		if typ := strings.ToLower(f.GetType().String()); typ != entry.Type {
			t.Errorf("%s is a %s, and said to be a %s", entry.Name, typ, entry.Type)
		}
		labels := make(map[string]bool)
		for _, l := range f.Metric[0].Label {
			labels[l.GetName()] = true
		}
		for _, l := range entry.Labels {
			if !labels[l] {
				t.Errorf("%s has no label %s", entry.Name, l)
			}
		}
		if len(labels) != len(entry.Labels) {
			t.Errorf("%s has labels %v, want %v", entry.Name, labels, entry.Labels)
		}
	}
	for _, e := range Catalogue() {
		if !seen[e.Name] {
			t.Errorf("%s was not seen", e.Name)
		}
	}
}

// Members beyond the 500th are summed up, and so are rules.
func TestOthersAreSummedUp(t *testing.T) {
	h := handlerOf(t.Name(), 1, maxMembers+3)
	for i := range maxRules + 5 {
		h.rules.Rules = append(h.rules.Rules, acl.RuleReport{Text: fmt.Sprintf("acl[%d]: allow host%d.example", i, i), Allow: true, Hits: 2})
	}
	found := 0
	for _, f := range gather(t, h) {
		for _, m := range f.Metric {
			labels := make(map[string]string)
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			var want float64
			switch {
			case labels["upstream"] == otherMembers && labels["result"] == "success":
				want = 3 * 7
			case labels["rule"] == otherRules:
				want = 5 * 2
			default:
				continue
			}
			if found++; m.GetCounter().GetValue() != want {
				t.Errorf("%s %v is %v, want %v", f.GetName(), labels, m.GetCounter().GetValue(), want)
			}
		}
	}
	if found != 2 {
		t.Errorf("%d sums, want 2", found)
	}
}

// A rule is told by its text: where it stands is no matter, and twice it is told once.
func TestRulesAreToldByTheirText(t *testing.T) {
	h := &fakeHandler{place: t.Name()}
	h.rules.Rules = []acl.RuleReport{
		{Text: "acl[0]: deny a.example", Hits: 3}, {Text: "acl[1]: allow b.example", Allow: true, Hits: 4},
		{Text: "acl[2]: deny a.example", Hits: 3},
	}
	h.rules.Defaults = []acl.RuleReport{{Text: "default: port", Hits: 5}}
	want := map[string]float64{"deny a.example deny": 3, "allow b.example allow": 4, "default: port deny": 5}
	for _, f := range gather(t, h) {
		if f.GetName() != "caddy_egress_decisions_total" {
			continue
		}
		for _, m := range f.Metric {
			labels := make(map[string]string)
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			key := labels["rule"] + " " + labels["action"]
			if m.GetCounter().GetValue() != want[key] {
				t.Errorf("%q is %v, want %v", key, m.GetCounter().GetValue(), want[key])
			}
			delete(want, key)
		}
	}
	if len(want) > 0 {
		t.Errorf("not told: %v", want)
	}
}

// A scrape costs what it shows: time and allocations for each series are the same with few
// upstreams and with many.
func BenchmarkScrape(b *testing.B) {
	for _, members := range []int{2, 20, 200} {
		b.Run(fmt.Sprint(10*members, " upstreams"), func(b *testing.B) {
			h := handlerOf(b.Name(), 10, members)
			u := Acquire(h.place, nil, nil)
			defer u.Release()
			busy(u, 10)
			registry := prometheus.NewRegistry()
			if err := Register(registry, "v1", func() []Handler { return []Handler{h} }); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := registry.Gather(); err != nil {
					b.Fatal(err)
				}
			}
			n := 0
			for _, f := range gather(b, h) {
				n += seriesOf(f)
			}
			b.ReportMetric(float64(n), "series")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/series")
		})
	}
}
