package top

import (
	"math"
	"strings"
	"time"

	"github.com/caddy-egress/egress/admin"
)

// This file contains what is worked out from snapshots.

// data is a snapshot, with what only two of them tell.
type data struct {
	*admin.Snapshot
	rates map[string]float64 // requests per second, by the key of the upstream
}

// keyOf tells upstreams apart: one whose settings differ between handlers is there twice.
func keyOf(u *admin.Upstream) string { return u.ID + " " + strings.Join(u.Handlers, " ") }

// after makes data of a snapshot and the one before it, which may be nil.
func after(before *data, now *admin.Snapshot) *data {
	d := &data{now, make(map[string]float64)}
	if before == nil {
		return d
	}
	passed := now.Time.Sub(before.Time).Seconds()
	if passed <= 0 {
		return d
	}
	counted := make(map[string]uint64)
	for i := range before.Upstreams.Items {
		u := &before.Upstreams.Items[i]
		counted[keyOf(u)] = sum(u.Counts)
	}
	for i := range now.Upstreams.Items {
		u := &now.Upstreams.Items[i]
		was, known := counted[keyOf(u)]
		if n := sum(u.Counts); known && n >= was { // fewer: the process is another one
			d.rates[keyOf(u)] = float64(n-was) / passed
		}
	}
	return d
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// rate is the requests per second of an upstream, NaN while that is not known.
func (d *data) rate(u *admin.Upstream) float64 {
	if r, ok := d.rates[keyOf(u)]; ok {
		return r
	}
	return math.NaN()
}

// totals are what the head of the view has.
type totals struct {
	requests  float64 // per second, through upstreams; NaN while that is not known
	exchanges int64
	up, down  float64 // bytes per second of tunnels
	notUp     int     // upstreams
}

func (d *data) totals() totals {
	t := totals{}
	if len(d.rates) == 0 && len(d.Upstreams.Items) > 0 {
		t.requests = math.NaN()
	}
	for _, r := range d.rates {
		t.requests += r
	}
	for i := range d.Upstreams.Items {
		u := &d.Upstreams.Items[i]
		t.exchanges += u.Exchanges
		if u.State != "up" {
			t.notUp++
		}
	}
	for i := range d.Pools.Items {
		if p := &d.Pools.Items[i]; p.Path == "direct" {
			t.exchanges += int64(p.Active)
		}
	}
	for i := range d.Tunnels.Items {
		t.up, t.down = t.up+d.Tunnels.Items[i].RateUp, t.down+d.Tunnels.Items[i].RateDown
	}
	return t
}

// since is how long ago a time was when the snapshot was taken.
func (d *data) since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return ago(d.Time.Sub(t))
}
