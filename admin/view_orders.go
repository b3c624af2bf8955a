package admin

import (
	"cmp"
	"maps"
	"slices"

	"github.com/caddy-egress/egress/internal/orders"
)

// StandingOrder is what is ordered of an upstream.
type StandingOrder struct {
	Ordered UpstreamOrder `json:"ordered" doc:"The order."`
	Present bool          `json:"present" doc:"Whether a handler has the upstream. An order about one that is not there holds when it comes back."`
}

func viewOrders(c *call) (list[StandingOrder], error) { return ordersOf(c.limit()), nil }

// ordersOf are the orders by group and upstream.
func ordersOf(limit int) list[StandingOrder] {
	all := orders.Of.Upstreams()
	ids := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[a].Group, all[b].Group), cmp.Compare(all[a].Upstream, all[b].Upstream), cmp.Compare(a, b))
	})
	out := newList[StandingOrder](limit)
	for _, id := range ids {
		out.add(func() StandingOrder {
			o := all[id]
			return StandingOrder{upstreamOrderOf(id, &o), orders.Of.IsAttached(id)}
		})
	}
	return out.done()
}
