package commands

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains `caddy egress orders`.

// orderList is what the API tells of orders.
type orderList struct {
	Items []admin.StandingOrder `json:"items"`
	Total int                   `json:"total"`
}

func ordersCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "orders [--limit <n>] [--json]",
		Short: "Lists what is ordered of upstreams, those that are gone included",
		Long: `
Lists what 'drain', 'maint' and 'ready --weight' have ordered of upstreams, each with the id
of its upstream. An order about an upstream that no handler has any more holds when it comes
back; 'caddy egress ready <id>' takes it back.
`,
		Example: "  $ caddy egress orders",
		Args:    cobra.NoArgs,
	}, listOrders)
	cmd.Flags().String("limit", "", "How many are listed at most; default 1000")
	return cmd
}

func standingOrders(a *asking, query url.Values) (all orderList, err error) {
	told, err := a.api.ask(a.ctx, http.MethodGet, "orders", query, nil)
	if err == nil {
		err = told.read(&all)
	}
	return all, err
}

func listOrders(a *asking) error {
	told, err := a.api.ask(a.ctx, http.MethodGet, "orders", a.query("limit"), nil)
	if err != nil {
		return err
	}
	return a.print(told, func() error {
		var all orderList
		if err := told.read(&all); err != nil {
			return err
		}
		if len(all.Items) == 0 {
			_, err := fmt.Fprintln(a.out, "no orders")
			return err
		}
		for i := range all.Items {
			o := &all.Items[i]
			text := o.Ordered.ID + "  " + upstreamOrderText(&o.Ordered) + ", by " + o.Ordered.By
			if !o.Present {
				text += " (no handler has it now)"
			}
			if _, err := fmt.Fprintln(a.out, plaintext.Printable(text)); err != nil {
				return err
			}
		}
		return a.cutOff(len(all.Items), all.Total, "orders")
	})
}
