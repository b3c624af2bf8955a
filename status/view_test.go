package status

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/metrics"
)

// sampled is a sample of what has happened so far.
func sampled(requests, failed uint64, blame map[string]uint64, upstreams ...admin.Attempts) *sample {
	within := make([]uint64, len(metrics.TimeBuckets())+1)
	for i := range within {
		if i >= 4 {
			within[i] = requests // all within .025 s
		}
	}
	totals := metrics.Totals{
		Ways:     map[metrics.Way]*metrics.WayTotals{{Handler: "h", Path: "upstream", Group: "g"}: {Requests: requests, Failed: failed, Within: within}},
		Failures: make(map[metrics.Charge]uint64),
	}
	for who, n := range blame {
		totals.Failures[metrics.Charge{Handler: "h", Blame: who}] = n
	}
	return sampleOf(time.Time{}, totals, upstreams)
}

// attempts are those through the upstream http://<id>, which is new.
func attempts(id string, all, failed uint64) admin.Attempts {
	return admin.Attempts{ID: id, URL: "http://" + id, Known: time.Unix(1, 0), All: all, Failed: failed}
}

// overviewOf is an overview with one group of some upstreams.
func overviewOf(states ...string) *admin.Overview {
	o := new(admin.Overview)
	o.Groups.Items = []admin.Group{{Handler: "h", Name: "g", Members: len(states)}}
	for i, s := range states {
		u := admin.Upstream{ID: string(rune('a' + i)), URL: "http://" + string(rune('a'+i)), Group: "g", Handlers: []string{"h"}, State: s, Admin: "ready"}
		u.InRotation = s == "up"
		switch s {
		case "up":
			o.Groups.Items[0].Available++
		case "drain":
			u.Admin = s
		default:
			o.Troubles.Out++
		}
		o.Upstreams.Items = append(o.Upstreams.Items, u)
	}
	if o.Groups.Items[0].Available == 0 {
		o.Troubles.Gone = []string{"g"}
	}
	return o
}

func TestSentence(t *testing.T) {
	begin := sampled(100, 10, map[string]uint64{"origin": 5, "client": 50})
	emergency := overviewOf("up")
	emergency.Emergency.On = true
	many := overviewOf("up") // more than are listed
	many.Troubles = admin.Troubles{Gone: []string{"a", "b", "c", "d", "e"}, Out: 30}
	for name, c := range map[string]struct {
		o    *admin.Overview
		now  *sample
		want sentence
	}{
		"well": {overviewOf("up", "up"), sampled(150, 10, map[string]uint64{"origin": 5, "client": 90, "policy": 7}),
			sentence{levelOK, "All well: 50 requests in 5 minutes, and none failed that should not."}},
		"an upstream is out": {overviewOf("up", "down"), begin,
			sentence{levelWarn, "1 upstream is out of rotation."}},
		"the operator took it out": {overviewOf("up", "drain"), begin,
			sentence{levelOK, "All well: 0 requests in 5 minutes, and none failed that should not."}},
		"all are out": {overviewOf("down", "circuit_open"), begin,
			sentence{levelBad, "Group g has no upstream left. 2 upstreams are out of rotation."}},
		"who is to blame": {overviewOf("up", "up"),
			sampled(300, 110, map[string]uint64{"origin": 85, "upstream": 15, "dns": 5}, attempts("b", 20, 30)),
			sentence{levelWarn, "100 of 200 requests failed in 5 minutes: origins 80%, upstream http://b 15%, DNS 5%."}},
		"most fail": {overviewOf("up"), sampled(110, 20, map[string]uint64{"origin": 14}),
			sentence{levelBad, "9 of 10 requests failed in 5 minutes: origins 100%."}},
		"a group without upstreams": {overviewOf(), begin,
			sentence{levelBad, "Group g has no upstream left."}},
		"many are out": {many, begin,
			sentence{levelBad, "Group a has no upstream left. Group b has no upstream left. Group c has no upstream left. 2 further groups have none left either. 30 upstreams are out of rotation."}},
		"two upstreams": {overviewOf("up", "up"), sampled(151, 61, map[string]uint64{"upstream": 51}, attempts("y", 1, 1), attempts("z", 50, 50)),
			sentence{levelBad, "51 of 51 requests failed in 5 minutes: upstream http://z 98%, upstream http://y 2%."}},
		"emergency": {emergency, begin, sentence{levelBad, "Emergency: all new requests are denied."}},
	} {
		if got := sentenceOf(c.o, []*sample{begin, c.now}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// What a handler that is gone has counted is gone with it: it is not counted anew.
func TestSentence_HandlerGone(t *testing.T) {
	from, to := sampled(0, 0, nil), sampled(0, 0, nil)
	from.totals.Failures = map[metrics.Charge]uint64{{Handler: "one", Blame: "origin"}: 20, {Handler: "two", Blame: "origin"}: 20}
	to.totals.Failures = map[metrics.Charge]uint64{{Handler: "two", Blame: "origin"}: 20}
	if _, failed, who := trouble([]*sample{from, to}); failed != 0 || len(who) > 0 {
		t.Errorf("%d failed: %v", failed, who)
	}
	to.totals.Failures[metrics.Charge{Handler: "one", Blame: "dns"}] = 3 // it came back
	if _, failed, who := trouble([]*sample{from, to}); failed != 3 || len(who) != 1 {
		t.Errorf("%d failed: %v", failed, who)
	}
}

// Of thousands of upstreams, the same ones have a curve in each sample, and failures are
// charged to those that have failed, wherever they stand.
func TestSample_Many(t *testing.T) {
	at := time.Unix(1000, 0)
	var all []*sample
	for n := range 3 {
		var upstreams []admin.Attempts
		for i := range 3 * maxCurves {
			upstreams = append(upstreams, admin.Attempts{ID: fmt.Sprint(i), URL: fmt.Sprint("http://", i), Known: at, All: 100, Failed: 50})
		}
		upstreams[len(upstreams)-1].Failed += uint64(n)
		all = append(all, sampleOf(at.Add(time.Duration(n+1)*samplePause), metrics.Totals{}, upstreams))
	}
	for i := range 3 * maxCurves {
		if c := rateCurve(upstreamPoints(all, fmt.Sprint(i))); c != nil {
			t.Fatalf("upstream %d: %+v", i, c)
		}
	}
	if who := upstreamsToBlame(all[0], all[2], 2); len(who) != 1 || who[0] != (culprit{"upstream http://2999", 2}) {
		t.Errorf("%v", who)
	}
	// One that moves up has a curve from then on, and not with all that it ever did.
	moved := sampleOf(at.Add(time.Hour), metrics.Totals{}, []admin.Attempts{{ID: "2999", Known: at, All: 100, Failed: 52}})
	if c := rateCurve(upstreamPoints(append(all, moved), "2999")); c != nil {
		t.Errorf("%+v", c)
	}
}

func TestPoints(t *testing.T) {
	all := []*sample{sampled(0, 0, nil), sampled(100, 5, nil, attempts("a", 10, 4)), sampled(30, 0, nil)}
	points := wayPoints(all, "h", "g")
	if len(points) != 2 || points[0].requests != 100 || points[0].failed != 5 || points[0].p95 <= .01 || points[0].p95 > .025 ||
		points[1].requests != 30 { // the counters began anew
		t.Errorf("%+v", points)
	}
	if c := rateCurve(points); c == nil || c.Lines[0] != "88,1.0 89,1.0 89,14.3 90,14.3" || c.Failed != "M88.5 20v-2.0" {
		t.Errorf("%+v", c)
	}
	if c := latencyCurve(points); c == nil || len(c.Lines) != 2 {
		t.Errorf("%+v", c)
	}
	if p := upstreamPoints(all, "a"); p[0].requests != 10 || p[0].failed != 4 || p[1].requests != 0 {
		t.Errorf("%+v", p)
	}
	if rateCurve(nil) != nil || latencyCurve([]point{{}}) != nil {
		t.Error("a curve of nothing")
	}
}

// Samples are taken while somebody has a page, go on where a reload brings the next one
// before the last is gone, are bounded, and are forgotten then.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var taken atomic.Int64
		s := sampler{take: func() *sample { taken.Add(1); return new(sample) }}
		first := s.use()
		time.Sleep(samplePause + time.Second)
		second := s.use()
		first()
		first()
		time.Sleep(3 * maxSamples * samplePause)
		if n := len(s.now()); n != maxSamples+2 {
			t.Errorf("%d samples", n)
		}
		second()
		synctest.Wait()
		before := taken.Load()
		time.Sleep(time.Hour)
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := taken.Load() - before; n != 0 || s.samples != nil {
			t.Errorf("%d samples after the end", n)
		}
	})
}

// Whatever names and errors are made of, they are text.
func TestPage_Escapes(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>` + "\u202e\x00"
	o := overviewOf("down", "drain")
	o.Upstreams.Items[0].URL = evil
	o.Upstreams.Items[0].Why = evil
	o.Upstreams.Items[0].LastError = &admin.UpstreamError{Error: evil}
	o.Upstreams.Items[1].Ordered = &admin.UpstreamOrder{State: evil, Weight: evil, Order: admin.Order{By: evil, Reason: evil}}
	o.Groups.Items[0].Name, o.Upstreams.Items[0].Group, o.Upstreams.Items[1].Group = evil, evil, evil
	o.Users.Items = []admin.User{{Name: evil, Handler: evil}}
	o.ByRate.Items = []admin.Tunnel{{User: evil, Target: evil, Client: evil, Upstream: evil}}
	o.ByBytes = o.ByRate
	o.Destinations.Items = []admin.Destination{{Destination: evil, Error: evil, Blame: evil, Circuit: evil, Upstream: evil}}
	o.Rules.Items = []admin.Rule{{Rule: evil, Action: evil, Error: evil}}
	o.Reload.Items = []admin.Reload{{Handler: evil}}
	v := viewOf(o, []*sample{new(sample), new(sample)})
	v.Sentence.Text = evil
	var buf bytes.Buffer
	a := ask{Handlers: []string{evil, "b"}, Target: evil, User: evil, Client: evil, Answer: evil, Error: evil}
	if err := templates.ExecuteTemplate(&buf, "page.html", page{v, a}); err != nil {
		t.Fatal(err)
	}
	text := buf.String()
	if n := strings.Count(text, "&lt;script&gt;alert(1)"); n < 25 {
		t.Errorf("%d of the names are there", n)
	}
	if strings.Contains(text, "<script>") || strings.Contains(text, "<img") || strings.Contains(text, "\x00") {
		t.Error(text)
	}
	if strings.Contains(text, "style=") || strings.Contains(text, " on") && strings.Contains(text, `onclick`) {
		t.Error("the policy does not let styles and handlers stand in the page")
	}
}

func TestWords(t *testing.T) {
	for got, want := range map[string]string{
		inBytes(0): "0 B", inBytes(1500): "1.5 kB", inBytes(2e15): "2000.0 TB", inSeconds(0): "–", inSeconds(.0123): "12.3 ms", inSeconds(2): "2 s",
		ago(time.Unix(0, 0), time.Unix(59, 0)): "59 s", ago(time.Unix(3600, 0), time.Unix(0, 0)): "1 h", ago(time.Unix(0, 0), time.Unix(3*86400, 0)): "3 d",
		ahead(time.Unix(9, 0), time.Unix(0, 0)): "in 9 s", ahead(time.Unix(0, 0), time.Unix(9, 0)): "now",
		wordOf("circuit_open"): "circuit open", wordOf("new"): "new", lookOf("new"): levelWarn, reasonOf("check_failed"): "its check failed",
		withoutSecrets("http://a:b@c/d"): "http://c/d", withoutSecrets("a:443"): "a:443",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
