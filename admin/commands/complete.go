package commands

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains what a shell is told to complete. Where the API does not answer at once,
// there is nothing to complete.

// completionTime is how long somebody waits for a completion.
const completionTime = 2 * time.Second

// completeFlag completes a flag with words.
func completeFlag(cmd *cobra.Command, flag string, words ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// askNow asks the API for what a completion needs, and leaves into as it is where that fails.
func askNow(cmd *cobra.Command, path string, query url.Values, into any) {
	a, err := newAsking(cmd, caddycmd.Flags{FlagSet: cmd.Flags()}, nil)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(a.ctx, completionTime)
	defer cancel()
	if told, err := a.api.ask(ctx, http.MethodGet, path, query, nil); err == nil {
		_ = told.read(into)
	}
}

// completeUpstream completes the one argument that is an upstream.
func completeUpstream(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeUpstreams(cmd, args, word)
}

// completeUpstreams offers the ids, and says what they are. Shells break words at the colons
// of a URL.
func completeUpstreams(cmd *cobra.Command, _ []string, _ string) (all []cobra.Completion, _ cobra.ShellCompDirective) {
	var upstreams []admin.Upstream
	askNow(cmd, "upstreams", nil, &upstreams)
	for _, u := range upstreams {
		all = append(all, cobra.CompletionWithDesc(plaintext.Printable(u.ID),
			plaintext.Printable(fmt.Sprintf("%s in group %s, %s", u.URL, u.Group, u.State))))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

// completeTunnel offers the ids of tunnels, and says what they are.
func completeTunnel(cmd *cobra.Command, args []string, _ string) (all []cobra.Completion, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	tunnels := new(admin.Snapshot).Tunnels
	askNow(cmd, "tunnels", url.Values{"limit": {"100"}}, &tunnels)
	for _, t := range tunnels.Items {
		all = append(all, cobra.CompletionWithDesc(fmt.Sprint(t.ID),
			plaintext.Printable(fmt.Sprintf("%s %s to %s", cmp.Or(t.User, "nobody"), t.Client, t.Target))))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}
