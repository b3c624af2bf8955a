package top

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddy-egress/egress/admin"
)

var updateGolden = flag.Bool("update", false, "write what the view looks like into testdata")

func TestMain(m *testing.M) {
	time.Local = time.UTC // clocks are those of the people who look
	os.Exit(m.Run())
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// snapshot is what a handler with three upstreams is, so many seconds after noon.
func snapshot(second int) *admin.Snapshot {
	now := noon.Add(time.Duration(second) * time.Second)
	s := &admin.Snapshot{Time: now, Version: "v1.2.3", Handlers: []string{"main"}}
	one := admin.Upstream{
		ID: "aaaaaaaaaaaa", URL: "http://one.example:3128", Group: "parents", Handlers: []string{"main"}, State: "up",
		Since: noon.Add(-26 * time.Hour), NumRequests: 12, Exchanges: 10, Latency: 0.0123, Weight: 1, Factor: 1,
		Counts: map[string]uint64{"success": uint64(1000 + 25*second), "timeout": 3},
	}
	two := one
	two.ID, two.URL, two.State, two.Since = "bbbbbbbbbbbb", "http://two.example:3128", "circuit_open", noon.Add(-90*time.Second)
	two.NumRequests, two.Exchanges, two.Fails, two.Latency = 0, 0, 7, 1.5
	two.Counts = map[string]uint64{"success": 12}
	two.LastError = &admin.UpstreamError{Error: "upstream proxy two.example:3128: connection refused"}
	three := one
	three.ID, three.URL, three.State, three.Since = "cccccccccccc", "socks5://three.example:1080", "drain", noon.Add(-5*time.Second)
	three.NumRequests, three.Exchanges, three.Latency, three.Factor = 2, 0, 0.25, 0.5
	three.Counts = map[string]uint64{"success": uint64(500 + second/2)}
	three.Ordered = &admin.UpstreamOrder{State: "drain", Weight: "50%", Order: admin.Order{By: "127.0.0.1", Until: noon.Add(15 * time.Minute), Reason: "disk full"}}
	s.Upstreams.Items, s.Upstreams.Total = []admin.Upstream{one, two, three}, 3

	s.Tunnels.Items = []admin.Tunnel{
		{ID: 11, User: "alice", Client: "192.0.2.7", Target: "video.example.com:443", Upstream: "http://one.example:3128", Age: 125, BytesUp: 4096, BytesDown: 5 << 30, RateUp: 900, RateDown: 12_345_678},
		{ID: 7, User: "bob", Client: "192.0.2.8", Target: "files.example.org:22", Age: 90_000, BytesUp: 7 << 20, BytesDown: 1 << 10, RateUp: 2048},
		{ID: 12, Client: "2001:db8::9", Target: "192.0.2.1:443", Upstream: "http://one.example:3128", Age: 2},
	}
	s.Tunnels.Total = 3
	s.Destinations.Items = []admin.Destination{
		{Destination: "broken.example:443", Circuit: "open", Failures: 5, Until: now.Add(9 * time.Second), LastFailure: now.Add(-time.Second), Blame: "origin", Error: "connection refused"},
		{Destination: "slow.example:80", Group: "parents", Upstream: "http://one.example:3128", Circuit: "closed", Failures: 1, LastFailure: now.Add(-40 * time.Second), Blame: "origin", Error: "timeout"},
	}
	s.Destinations.Total = 2
	s.Pools.Items = []admin.Pool{{Handler: "main", Path: "direct", Connections: admin.Connections{Active: 4, Idle: 2}}}
	s.Pools.Total = 1
	return s
}

// inEmergency is a snapshot in an emergency.
func inEmergency(s *admin.Snapshot) *admin.Snapshot {
	s.Emergency = admin.EmergencyState{On: true, Order: &admin.Order{By: "192.0.2.1", Reason: "break-in", Until: noon.Add(time.Hour)}}
	return s
}

// at returns the view of a terminal of that size, after two seconds.
func at(cols, rows int) *model {
	m := newModel("localhost:2019", painter{})
	m.cols, m.rows = cols, rows
	m.took(snapshot(0))
	m.took(snapshot(2))
	return m
}

// pressed presses keys, as a terminal sends them.
func (m *model) pressed(keys string) *model {
	for {
		k, rest, ok := nextKey(keys)
		if !ok {
			return m
		}
		m.press(k)
		keys = rest
	}
}

// golden compares a text with the one in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *updateGolden {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant (-update writes it)\n%s", file, got, want)
	}
}
