package top

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the tables that there are: their columns, their rows, their orders.

// shaping is what a table is made with.
type shaping struct {
	order    int // of the orders of the view
	reversed bool
	filter   string // a part of a cell, in lower case
}

// tabled is a view that makes a table.
type tabled interface {
	title() string
	orders() []string
	// table returns the rows that the filter lets pass.
	table(*data, shaping) table
	// count is how many items were fetched, of how many.
	count(*data) (have, total int)
}

// view is a table of values of one type.
type view[T any] struct {
	name    string
	columns []column
	items   func(*data) (items []T, total int)
	cells   func(*data, *T) []cell
	sorts   []sorting[T]
}

// sorting is an order: the rows that people look for come first.
type sorting[T any] struct {
	name    string
	compare func(d *data, a, b *T) int
}

func (v *view[T]) title() string { return v.name }

func (v *view[T]) orders() (names []string) {
	for _, s := range v.sorts {
		names = append(names, s.name)
	}
	return names
}

func (v *view[T]) count(d *data) (have, total int) {
	items, total := v.items(d)
	return len(items), total
}

func (v *view[T]) table(d *data, s shaping) table {
	items, _ := v.items(d)
	type line struct {
		item  *T
		cells []cell
	}
	var lines []line
	for i := range items {
		cells := v.cells(d, &items[i])
		if s.filter == "" || slices.ContainsFunc(cells, func(c cell) bool { return strings.Contains(strings.ToLower(c.text), s.filter) }) {
			lines = append(lines, line{&items[i], cells})
		}
	}
	compare := v.sorts[s.order].compare
	slices.SortStableFunc(lines, func(a, b line) int {
		if s.reversed {
			a, b = b, a
		}
		return compare(d, a.item, b.item)
	})
	t := table{columns: v.columns}
	for _, l := range lines {
		t.rows = append(t.rows, l.cells)
	}
	return t
}

// most compares numbers, the greatest first.
func most[N cmp.Ordered](a, b N) int { return cmp.Compare(b, a) }

// The views, in the order of their tabs.
var views = []tabled{upstreamsView, tunnelsView, destinationsView}

var upstreamsView = &view[admin.Upstream]{
	name: "Upstreams",
	columns: []column{
		{title: "UPSTREAM", least: 26},
		{title: "GROUP", least: 8, drop: 4},
		{title: "STATE"},
		{title: "FOR", right: true, drop: 5},
		{title: "REQ/S", right: true},
		{title: "IN FLIGHT", right: true, drop: 1},
		{title: "LATENCY", right: true, drop: 2},
		{title: "FAILS", right: true, drop: 6},
		{title: "WEIGHT", right: true, drop: 7},
		{title: "NOTE", least: 30, drop: 3},
		{title: "ID", drop: 8},
	},
	items: func(d *data) ([]admin.Upstream, int) { return d.Upstreams.Items, d.Upstreams.Total },
	cells: func(d *data, u *admin.Upstream) []cell {
		return []cell{
			plain(clean(u.URL)), plain(clean(u.Group)),
			{clean(u.State), markOf(u.State)},
			plain(d.since(u.Since)),
			plain(perSecond(d.rate(u))), plain(fmt.Sprint(u.NumRequests)), plain(delay(float64(u.Latency))),
			plain(fmt.Sprint(u.Fails)), plain(weightOf(u)), plain(clean(noteOf(u, d.Time))), plain(clean(u.ID)),
		}
	},
	sorts: []sorting[admin.Upstream]{
		{"state", func(_ *data, a, b *admin.Upstream) int { return cmp.Compare(gravity(a.State), gravity(b.State)) }},
		{"requests", func(d *data, a, b *admin.Upstream) int { return most(d.rate(a), d.rate(b)) }},
		{"in flight", func(_ *data, a, b *admin.Upstream) int { return most(a.NumRequests, b.NumRequests) }},
		{"latency", func(_ *data, a, b *admin.Upstream) int { return most(a.Latency, b.Latency) }},
		{"fails", func(_ *data, a, b *admin.Upstream) int { return most(a.Fails, b.Fails) }},
		{"configuration", func(*data, *admin.Upstream, *admin.Upstream) int { return 0 }},
	},
}

// gravity is the place of a state among all, the gravest first.
func gravity(state string) int {
	if i := slices.Index(upstream.States[:], state); i >= 0 {
		return i
	}
	return len(upstream.States)
}

// markOf is how a state stands out. The word says it too.
func markOf(state string) mark {
	switch state {
	case "closed":
		return 0
	case "up":
		return good
	case "down", "auth_failed", "circuit_open", "open":
		return bad
	}
	return warning
}

func weightOf(u *admin.Upstream) string {
	if u.Factor == 1 {
		return fmt.Sprint(u.Weight)
	}
	return fmt.Sprintf("%d × %.0f%%", u.Weight, u.Factor*100)
}

// noteOf is why an upstream is as it is: what the operator has ordered, else its last error.
func noteOf(u *admin.Upstream, now time.Time) string {
	if o := u.Ordered; o != nil {
		var what []string
		if o.State != u.State && o.State != "ready" {
			what = append(what, o.State) // its state is a graver one
		}
		if o.Weight != "100%" {
			what = append(what, "weight "+o.Weight)
		}
		return orderText(&o.Order, now, what...)
	}
	if u.State == "up" {
		return ""
	}
	if e := u.LastError; e != nil {
		return e.Error
	}
	if c := u.LastCheck; c != nil && c.Error != "" {
		return "check: " + c.Error
	}
	return u.Why
}

// orderText is why something was ordered, and behind that what, until when and by whom.
func orderText(o *admin.Order, now time.Time, what ...string) string {
	if !o.Until.IsZero() {
		what = append(what, "until "+clock(o.Until, now))
	}
	text := strings.Join(append(what, "by "+o.By), ", ")
	if o.Reason != "" {
		return o.Reason + " (" + text + ")"
	}
	return text
}

var tunnelsView = &view[admin.Tunnel]{
	name: "Tunnels",
	columns: []column{
		{title: "ID", right: true, drop: 6},
		{title: "USER", least: 6, drop: 3},
		{title: "CLIENT", drop: 4},
		{title: "TARGET", least: 24},
		{title: "VIA", least: 24, drop: 2},
		{title: "AGE", right: true, drop: 1},
		{title: "UP", right: true, drop: 7},
		{title: "DOWN", right: true, drop: 8},
		{title: "UP/S", right: true},
		{title: "DOWN/S", right: true},
	},
	items: func(d *data) ([]admin.Tunnel, int) { return d.Tunnels.Items, d.Tunnels.Total },
	cells: func(_ *data, t *admin.Tunnel) []cell {
		return []cell{
			plain(fmt.Sprint(t.ID)), plain(cmp.Or(clean(t.User), "-")), plain(clean(t.Client)), plain(clean(t.Target)),
			plain(cmp.Or(clean(t.Upstream), "direct")), plain(ago(time.Duration(float64(t.Age) * float64(time.Second)))),
			plain(amount(float64(t.BytesUp))), plain(amount(float64(t.BytesDown))), plain(speed(t.RateUp)), plain(speed(t.RateDown)),
		}
	},
	sorts: []sorting[admin.Tunnel]{
		{"rate", func(_ *data, a, b *admin.Tunnel) int { return most(a.RateUp+a.RateDown, b.RateUp+b.RateDown) }},
		{"bytes", func(_ *data, a, b *admin.Tunnel) int { return most(a.BytesUp+a.BytesDown, b.BytesUp+b.BytesDown) }},
		{"age", func(_ *data, a, b *admin.Tunnel) int { return most(a.Age, b.Age) }},
		{"user", func(_ *data, a, b *admin.Tunnel) int { return cmp.Compare(a.User, b.User) }},
		{"target", func(_ *data, a, b *admin.Tunnel) int { return cmp.Compare(a.Target, b.Target) }},
	},
}

var destinationsView = &view[admin.Destination]{
	name: "Failing destinations",
	columns: []column{
		{title: "DESTINATION", least: 24},
		{title: "VIA", least: 24, drop: 2},
		{title: "CIRCUIT"},
		{title: "FAILURES", right: true, drop: 1},
		{title: "AGO", right: true, drop: 4},
		{title: "UNTIL", drop: 5},
		{title: "BLAME", drop: 6},
		{title: "ERROR", least: 30, drop: 3},
	},
	items: func(d *data) ([]admin.Destination, int) { return d.Destinations.Items, d.Destinations.Total },
	cells: func(d *data, f *admin.Destination) []cell {
		until := "-"
		if !f.Until.IsZero() {
			until = clock(f.Until, d.Time)
		}
		return []cell{
			plain(clean(f.Destination)), plain(clean(cmp.Or(f.Upstream, f.Group, "direct"))),
			{clean(f.Circuit), markOf(f.Circuit)},
			plain(fmt.Sprint(f.Failures)), plain(d.since(f.LastFailure)), plain(until), plain(clean(f.Blame)), plain(clean(f.Error)),
		}
	},
	sorts: []sorting[admin.Destination]{
		{"circuit", func(*data, *admin.Destination, *admin.Destination) int { return 0 }}, // as the API has it
		{"failures", func(_ *data, a, b *admin.Destination) int { return most(a.Failures, b.Failures) }},
		{"last", func(_ *data, a, b *admin.Destination) int { return b.LastFailure.Compare(a.LastFailure) }},
		{"name", func(_ *data, a, b *admin.Destination) int { return cmp.Compare(a.Destination, b.Destination) }},
	},
}

// WriteUpstreams writes a table of upstreams, in the order in which they are given.
func WriteUpstreams(w io.Writer, all []admin.Upstream, now time.Time) error {
	d := &data{Snapshot: &admin.Snapshot{Time: now}}
	d.Upstreams.Items = all
	t := upstreamsView.table(d, shaping{order: len(upstreamsView.sorts) - 1})
	return writeTable(w, t.without("REQ/S")) // one answer does not tell it
}

// WriteTunnels writes a table of tunnels, in the order in which they are given.
func WriteTunnels(w io.Writer, all []admin.Tunnel) error {
	t := &table{columns: tunnelsView.columns}
	for i := range all {
		t.rows = append(t.rows, tunnelsView.cells(nil, &all[i]))
	}
	return writeTable(w, t)
}

func writeTable(w io.Writer, t *table) error {
	var b strings.Builder
	t.write(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// without leaves out a column.
func (t table) without(title string) *table {
	at := slices.IndexFunc(t.columns, func(c column) bool { return c.title == title })
	t.columns = slices.Delete(slices.Clone(t.columns), at, at+1)
	for i := range t.rows {
		t.rows[i] = slices.Delete(t.rows[i], at, at+1)
	}
	return &t
}
