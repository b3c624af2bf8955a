package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/testkit/peers"
	"github.com/caddy-egress/egress/internal/testkit/peers/peertest"
)

// queriesOf are the queries in the table of a document.
func queriesOf(t *testing.T, path string) (queries []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "| question | query |")
	if !ok {
		t.Fatalf("%s has no queries", path)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| .* \\| `(.*)` \\|$").FindAllStringSubmatch(table, -1) {
		queries = append(queries, m[1])
	}
	if len(queries) < 5 {
		t.Fatalf("%d queries in %s", len(queries), path)
	}
	return queries
}

// askPrometheus asks the API of a Prometheus.
func askPrometheus(t *testing.T, addr, path string, query url.Values, into any) {
	t.Helper()
	resp, err := http.Get("http://" + addr + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %s %s %v", path, resp.Status, answer.Error, err)
	}
	if err := json.Unmarshal(answer.Data, into); err != nil {
		t.Fatal(err)
	}
}

// untilAnswered waits until a query has one answer, or none, of that value.
func untilAnswered(t *testing.T, addr, query string, want float64) {
	t.Helper()
	got := 0.
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var data struct{ Result []struct{ Value [2]any } }
		askPrometheus(t, addr, "/api/v1/query", url.Values{"query": {query}}, &data)
		got = 0
		for _, r := range data.Result {
			n, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
			if err != nil {
				t.Fatal(query, err)
			}
			got += n
		}
		if got == want {
			return
		}
	}
	t.Errorf("%s is %v, want %v", query, got, want)
}

// A real Prometheus that scrapes while 10,080 requests are made over 20 reloads comes to
// what was done, to the one, and sees no counter begin anew.
func TestMetrics_PrometheusCountsToTheOne(t *testing.T) {
	var prometheus *peers.Peer
	want := driveToTheOne(t, 24, func(p *proxy) {
		prometheus = peertest.Prometheus(t, peers.PrometheusOptions{Target: p.plain, Path: "/test-metrics"})
	})
	for name, n := range want {
		untilAnswered(t, prometheus.Addr, "sum(caddy_egress_"+name+")", n)
	}
	for name := range want {
		if name, _, _ = strings.Cut(name, "{"); strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_count") {
			untilAnswered(t, prometheus.Addr, "sum(resets(caddy_egress_"+name+"[1h]))", 0)
		}
	}
}

// panelsOf are the queries of the panels of a dashboard, with its variables filled in.
func panelsOf(t *testing.T, path string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, W int }
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$handler", ".*", "$__rate_interval", "1m")
	queries, ids := make(map[string][]string), make(map[int]bool)
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d, %q: its id or its place is taken", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if len(p.Targets) == 0 || queries[p.Title] != nil {
			t.Errorf("panel %q asks for nothing, or is there twice", p.Title)
		}
		for _, target := range p.Targets {
			queries[p.Title] = append(queries[p.Title], fill.Replace(target.Expr))
		}
	}
	if len(queries) < 20 {
		t.Fatalf("%d panels in %s", len(queries), path)
	}
	return queries
}

// untilAny waits until a query has an answer at all.
func untilAny(t *testing.T, addr, query string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var data struct{ Result []any }
		askPrometheus(t, addr, "/api/v1/query", url.Values{"query": {query}}, &data)
		if len(data.Result) > 0 {
			return
		}
	}
	t.Errorf("%s has no answer", query)
}

// A real Prometheus takes the metrics, evaluates the alerts, and has an answer to each
// query of the document and of the dashboard.
func TestMetrics_Prometheus(t *testing.T) {
	rules, err := filepath.Abs("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	b := newBusyProxy(t)
	prometheus := peertest.Prometheus(t, peers.PrometheusOptions{Target: b.plain, Path: "/test-metrics", Rules: []string{rules}})
	b.keepBusy(t)
	for _, query := range queriesOf(t, "../docs/metrics.md") {
		untilAny(t, prometheus.Addr, query)
	}
	for panel, queries := range panelsOf(t, "../deploy/grafana/caddy-egress.json") {
		t.Run(panel, func(t *testing.T) {
			for _, query := range queries {
				untilAny(t, prometheus.Addr, query)
			}
		})
	}
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		askPrometheus(t, prometheus.Addr, "/api/v1/rules", nil, &data)
		good := 0
		for _, r := range data.Groups[0].Rules {
			if r.Health == "ok" {
				good++
			}
		}
		if good > 0 && good == len(data.Groups[0].Rules) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", data)
		}
	}
}

// The alerts fire when they should, and do not otherwise.
func TestMetrics_Alerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("EGRESS_REQUIRE_PEERS") == "1" {
			t.Fatal(err)
		}
		t.Skipf("%v (Debian: apt-get install prometheus); set EGRESS_REQUIRE_PEERS=1 to fail instead", err)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "../deploy/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
