package top

import (
	"math"
	"slices"
	"testing"

	"github.com/caddy-egress/egress/admin"
)

// Rates are differences of counts. Where there is nothing to compare with, they are unknown.
func TestRates(t *testing.T) {
	first := after(nil, snapshot(0))
	if u := &first.Upstreams.Items[0]; !math.IsNaN(first.rate(u)) || !math.IsNaN(first.totals().requests) {
		t.Error("a rate of one snapshot")
	}
	second := after(first, snapshot(4))
	for i, want := range []float64{25, 0, 0.5} {
		if got := second.rate(&second.Upstreams.Items[i]); got != want {
			t.Errorf("upstream %d: %v, want %v", i, got, want)
		}
	}
	if got := second.totals(); got.requests != 25.5 || got.exchanges != 14 || got.notUp != 2 || got.up != 2948 || got.down != 12_345_678 {
		t.Errorf("%+v", got)
	}
	// The process has started anew: it counts from the beginning.
	if again := after(second, snapshot(-30)); !math.IsNaN(again.rate(&again.Upstreams.Items[0])) {
		t.Error("a rate of time that goes back")
	}
	restarted := snapshot(6)
	restarted.Upstreams.Items[0].Counts = map[string]uint64{"success": 5}
	if again := after(second, restarted); !math.IsNaN(again.rate(&again.Upstreams.Items[0])) || again.rate(&again.Upstreams.Items[2]) != 0.5 {
		t.Error("a rate of counts that go back")
	}
	// One that has come just now has no rate, and takes none from others.
	more := snapshot(6)
	fourth := more.Upstreams.Items[0]
	fourth.ID = "dddddddddddd"
	more.Upstreams.Items = append(more.Upstreams.Items, fourth)
	if again := after(second, more); !math.IsNaN(again.rate(&more.Upstreams.Items[3])) || again.rate(&more.Upstreams.Items[0]) != 25 {
		t.Error("a rate of an upstream that was not there")
	}
}

// Each order has what people look for first; reversed, last.
func TestOrders(t *testing.T) {
	d := after(after(nil, snapshot(0)), snapshot(2))
	for _, tc := range []struct {
		view  tabled
		order string
		want  []string // the first cells of the column
	}{
		{upstreamsView, "state", []string{"drain", "circuit_open", "up"}},
		{upstreamsView, "requests", []string{"25.0", "0.5", "0.0"}},
		{upstreamsView, "in flight", []string{"12", "2", "0"}},
		{upstreamsView, "latency", []string{"1.5s", "250ms", "12ms"}},
		{upstreamsView, "fails", []string{"7", "0", "0"}},
		{upstreamsView, "configuration", []string{"http://one.example:3128", "http://two.example:3128", "socks5://three.example:1080"}},
		{tunnelsView, "rate", []string{"11", "7", "12"}},
		{tunnelsView, "bytes", []string{"5.0 GiB", "1.0 KiB", "0 B"}},
		{tunnelsView, "age", []string{"1d1h", "2m5s", "2s"}},
		{tunnelsView, "user", []string{"-", "alice", "bob"}},
		{tunnelsView, "target", []string{"192.0.2.1:443", "files.example.org:22", "video.example.com:443"}},
		{destinationsView, "circuit", []string{"broken.example:443", "slow.example:80"}},
		{destinationsView, "failures", []string{"5", "1"}},
		{destinationsView, "last", []string{"1s", "40s"}},
		{destinationsView, "name", []string{"broken.example:443", "slow.example:80"}},
	} {
		order := slices.Index(tc.view.orders(), tc.order)
		tab := tc.view.table(d, shaping{order: order})
		if !hasColumn(&tab, tc.want) {
			t.Errorf("%s by %s: no column is %q: %v", tc.view.title(), tc.order, tc.want, tab.rows)
		}
		back := tc.view.table(d, shaping{order: order, reversed: true})
		if slices.Reverse(tc.want); tc.order != "configuration" && tc.order != "circuit" && tc.order != "fails" && !hasColumn(&back, tc.want) {
			t.Errorf("%s by %s, reversed: no column is %q: %v", tc.view.title(), tc.order, tc.want, back.rows)
		}
	}
}

func hasColumn(t *table, want []string) bool {
	for i := range t.columns {
		var got []string
		for _, row := range t.rows {
			got = append(got, row[i].text)
		}
		if slices.Equal(got, want) {
			return true
		}
	}
	return false
}

// A filter finds text in any column, whatever the case, also in those that have no room.
func TestFilter(t *testing.T) {
	for keys, want := range map[string]int{
		"t":                            3,
		"t/ALICE":                      1,
		"t/example\r":                  3, // of a target, or of an upstream
		"t/direct\r":                   1,
		"t/alicex\x7f\r":               1,
		"t/nobody\x15bob":              1,
		"t/alice\x1b":                  3,
		"t/alice\r\x1b":                3,
		"/CIRCUIT_OPEN\r":              1,
		"/bbbbbbbbbbbb":                1,
		"d/refused":                    1,
		"t/q":                          0,
		"t/alice\tu":                   0,
		"t/" + "video.example.com:443": 1,
	} {
		m := at(60, 24).pressed(keys)
		if tab := views[m.view].table(m.data, m.shaped()); len(tab.rows) != want {
			t.Errorf("%q: %d rows, want %d", keys, len(tab.rows), want)
		}
	}
}

// An upstream that several handlers have with different settings is told apart.
func TestRates_SameID(t *testing.T) {
	build := func(second int, a, b uint64) *admin.Snapshot {
		s := snapshot(second)
		other := s.Upstreams.Items[0]
		other.Handlers = []string{"second"}
		other.Counts = map[string]uint64{"success": b}
		s.Upstreams.Items[0].Counts = map[string]uint64{"success": a}
		s.Upstreams.Items = append(s.Upstreams.Items, other)
		return s
	}
	d := after(after(nil, build(0, 10, 100)), build(1, 11, 105))
	if a, b := d.rate(&d.Upstreams.Items[0]), d.rate(&d.Upstreams.Items[3]); a != 1 || b != 5 {
		t.Errorf("%v and %v", a, b)
	}
}
