package status

import (
	"reflect"
	"slices"

	"github.com/caddy-egress/egress/admin"
)

// This file contains what the page shows, as its template needs it.

// bounds are how much of everything people can read.
var bounds = admin.Bounds{Upstreams: 200, Rules: 100, Others: 10}

// view is the part of the page that changes.
type view struct {
	*admin.Overview
	Sentence sentence
	Shown    []group
}

// group is a group, or what leaves directly.
type group struct {
	admin.Group
	Rate, Latency *curve
	P50, P95      float64 // over the last 5 minutes, in seconds
	Members       []member
	Left          int // members that are not shown
}

type member struct {
	admin.Upstream
	Rate *curve
}

// look takes what the page shows now.
func look() (*view, error) {
	o, err := admin.Look(bounds)
	if err != nil {
		return nil, err
	}
	return viewOf(o, samples.now()), nil
}

// viewOf makes the page's words and curves of an overview.
func viewOf(o *admin.Overview, all []*sample) *view {
	v := &view{Overview: o, Sentence: sentenceOf(o, all)}
	from, to := since(all)
	for i := range o.Groups.Items {
		g := group{Group: o.Groups.Items[i]}
		points := wayPoints(all, g.Handler, g.Name)
		p := wayPoint(from, to, g.Handler, g.Name)
		g.Rate, g.Latency, g.P50, g.P95 = rateCurve(points), latencyCurve(points), p.p50, p.p95
		for m := range o.Upstreams.Items {
			u := &o.Upstreams.Items[m]
			if u.Group == g.Name && slices.Contains(u.Handlers, g.Handler) {
				g.Members = append(g.Members, member{*u, rateCurve(upstreamPoints(all, u.ID))})
			}
		}
		v.Shown = append(v.Shown, g)
	}
	return v
}

func toFloat(v any) float64 { return reflect.ValueOf(v).Float() }
