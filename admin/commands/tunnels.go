package commands

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/admin/top"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains the commands about tunnels.

// tunnelFilters are the flags that select tunnels.
var tunnelFilters = []string{"handler", "user", "client", "target", "upstream", "min-age", "min-bytes"}

func addTunnelFilters(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("handler", "", "Only of this handler: its name or its place")
	flags.String("user", "", "Only of this user")
	flags.String("client", "", "Only of clients with this address, or in this network")
	flags.String("target", "", "Only to this host, to all below it (*.example.com), or to this host and port")
	flags.String("upstream", "", "Only through this upstream: its id, URL or address")
	flags.String("min-age", "", "Only those of at least this age, such as 90s or 1h30m")
	flags.String("min-bytes", "", "Only those that have carried at least so many bytes, both ways together")
	flags.String("limit", "", "How many are listed at most; default 1000")
	_ = cmd.RegisterFlagCompletionFunc("upstream", completeUpstreams)
}

// tunnelQuery has the parameters of the flags that select tunnels, and of others. Passwords
// are not sent: Caddy logs queries.
func (a *asking) tunnelQuery(besides ...string) (url.Values, error) {
	query := a.query(append(besides, tunnelFilters...)...)
	if _, had := upstream.WithoutCredentials(query.Get("upstream")); had {
		id, err := findUpstream(a, query.Get("upstream"))
		if err != nil {
			return nil, err
		}
		query.Set("upstream", id)
	}
	return query, nil
}

func tunnelsCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "tunnels [--user <name>] [--client <ip|network>] [--target <host>] [--upstream <upstream>] [--min-age <duration>] [--min-bytes <n>] [--sort rate|bytes|age] [--handler <place>] [--limit <n>] [--json]",
		Short: "Lists the tunnels that are open, with their rates",
		Long: `
Lists the tunnels that are open, those with the greatest rate first. Rates are over the last
10 seconds. ID is what 'caddy egress kill' knows a tunnel by.
`,
		Example: "  $ caddy egress tunnels --user alice\n  $ caddy egress tunnels --target '*.example.com' --sort bytes",
		Args:    cobra.NoArgs,
	}, listTunnels)
	addTunnelFilters(cmd)
	cmd.Flags().String("sort", "", "What the greatest of comes first: rate, bytes or age; default rate")
	completeFlag(cmd, "sort", "rate", "bytes", "age")
	return cmd
}

func listTunnels(a *asking) error {
	query, err := a.tunnelQuery("sort", "limit")
	if err != nil {
		return err
	}
	told, err := a.api.ask(a.ctx, http.MethodGet, "tunnels", query, nil)
	if err != nil {
		return err
	}
	return a.print(told, func() error {
		// The list of a snapshot is of the same type.
		all := new(admin.Snapshot).Tunnels
		if err := told.read(&all); err != nil {
			return err
		}
		if len(all.Items) == 0 {
			_, err := fmt.Fprintln(a.out, "no tunnels")
			return err
		}
		if err := top.WriteTunnels(a.out, all.Items); err != nil {
			return err
		}
		return a.cutOff(len(all.Items), all.Total, "tunnels")
	})
}

func killCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "kill <id> | [--user <name>] [--client <ip|network>] [--target <host>] [--upstream <upstream>] [--min-age <duration>] [--min-bytes <n>] [--handler <place>] [--dry-run] [--json]",
		Short: "Ends a tunnel, or all tunnels that are selected",
		Long: `
Ends the tunnel with an id of 'caddy egress tunnels', or all tunnels that the flags select;
several flags select those that all of them do. With --dry-run, nothing is ended: the
tunnels that would be are listed.
`,
		Example:           "  $ caddy egress kill 4711\n  $ caddy egress kill --user alice --min-age 1h --dry-run",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeTunnel,
	}, kill)
	addTunnelFilters(cmd)
	cmd.Flags().Bool("dry-run", false, "End nothing, but list what would be ended")
	return cmd
}

func kill(a *asking) error {
	query, err := a.tunnelQuery()
	switch {
	case err != nil:
		return err
	case len(a.args) == 0 && len(query) == 0:
		return errors.New("say which tunnels: kill <id>, or --user, --client, --target, --upstream, --min-age, --min-bytes or --handler; 'caddy egress tunnels' lists them")
	case len(a.args) > 0 && len(query) > 0:
		return errors.New("either an id or flags that select tunnels, not both")
	}
	if a.flags.Bool("dry-run") {
		query.Set("dry_run", "true")
	}
	if len(a.args) > 0 {
		return killOne(a, a.args[0], query)
	}
	if limit := a.flags.String("limit"); limit != "" {
		query.Set("limit", limit)
	}
	told, err := a.api.ask(a.ctx, http.MethodDelete, "tunnels", query, nil)
	if err != nil {
		return err
	}
	var ended admin.EndedTunnels
	if err := told.read(&ended); err != nil {
		return err
	}
	if err := a.print(told, func() error { return a.tellEnded(&ended) }); err != nil {
		return err
	}
	if ended.Ended.Total == 0 {
		return notFound("no tunnel is selected; 'caddy egress tunnels' lists all")
	}
	return nil
}

func (a *asking) tellEnded(e *admin.EndedTunnels) error {
	if e.Ended.Total == 0 {
		return nil
	}
	if err := top.WriteTunnels(a.out, e.Ended.Items); err != nil {
		return err
	}
	if err := a.cutOff(len(e.Ended.Items), e.Ended.Total, "tunnels"); err != nil {
		return err
	}
	text := "ended: %d\n"
	if e.DryRun {
		text = "would be ended: %d (--dry-run)\n"
	}
	_, err := fmt.Fprintf(a.out, text, e.Ended.Total)
	return err
}

func killOne(a *asking, id string, query url.Values) error {
	if _, err := strconv.ParseUint(id, 10, 64); err != nil {
		return fmt.Errorf("'%s' is not the id of a tunnel, which is a number; --user, --client, --target and others select tunnels without one", plaintext.Short(id, maxProblem))
	}
	told, err := a.api.ask(a.ctx, http.MethodDelete, "tunnels/"+id, query, nil)
	if err != nil {
		return err
	}
	return a.print(told, func() error {
		var t admin.Tunnel
		if err := told.read(&t); err != nil {
			return err
		}
		one := admin.EndedTunnels{DryRun: a.flags.Bool("dry-run")}
		one.Ended.Items, one.Ended.Total = []admin.Tunnel{t}, 1
		return a.tellEnded(&one)
	})
}
