package commands

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/admin/top"
)

// This file contains `caddy egress top`.

// How often the view may ask.
const (
	leastInterval = 200 * time.Millisecond
	mostInterval  = time.Minute
)

func topCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "top [--interval <duration>] [--handler <place>] [--once] [--json]",
		Short: "Shows upstreams, tunnels and failing destinations, live",
		Long: `
Shows what the handlers of a running Caddy do, refreshed each --interval: upstreams with
state, requests per second, latency and what is in flight, tunnels by rate, and destinations
that fail. ? tells the keys: u, t and d or Tab for the view, s to sort, / to filter, p to
pause, q to quit.

With --once, and where the output is no terminal, it prints one snapshot as text after one
interval, which rates need. With --json, it prints the snapshot of the admin API. Where
NO_COLOR is set, there are no colours.
`,
		Example: "  $ caddy egress top\n  $ caddy egress top --once | less -S",
		Args:    cobra.NoArgs,
	}, showTop)
	flags := cmd.Flags()
	flags.Duration("interval", time.Second, "From one refresh to the next, from 200ms to 1m")
	flags.String("handler", "", "Only this handler: its name or its place")
	flags.Bool("once", false, "Print one snapshot as text")
	return cmd
}

func showTop(a *asking) error {
	interval := a.flags.Duration("interval")
	if interval < leastInterval || interval > mostInterval {
		return errors.New("--interval: from 200ms to 1m")
	}
	query := a.query("handler")
	if a.flags.Bool("json") {
		told, err := a.api.ask(a.ctx, http.MethodGet, "snapshot", query, nil)
		if err != nil {
			return err
		}
		_, err = a.out.Write(told.body)
		return err
	}
	o := top.Options{Address: a.api.address, Interval: interval, Fetch: func(ctx context.Context) (*admin.Snapshot, error) {
		return fetchSnapshot(ctx, a.api, query)
	}}
	if out, ok := a.out.(*os.File); ok && !a.flags.Bool("once") && top.IsTerminal(os.Stdin, out) {
		return top.Live(a.ctx, os.Stdin, out, o)
	}
	return top.Once(a.ctx, a.out, o)
}

// snapshotTime is how long a refresh waits for an answer. A view that waits longer looks as
// if all were well.
const snapshotTime = 5 * time.Second

func fetchSnapshot(ctx context.Context, c *client, query url.Values) (*admin.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	told, err := c.ask(ctx, http.MethodGet, "snapshot", query, nil)
	if err != nil {
		return nil, err
	}
	s := new(admin.Snapshot)
	return s, told.read(s)
}
