package commands

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/admin/top"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains `caddy egress upstreams`, and those that change the state of one.

func upstreamsCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "upstreams [--group <name>] [--state <state>] [--handler <place>] [--limit <n>] [--json]",
		Short: "Lists the upstream proxies: state, load, latency, why",
		Long: `
Lists the upstream proxies of all groups, with their state, what is in flight on them,
their latency and, where one is not up, why. ID is what other commands know one by.
`,
		Example: "  $ caddy egress upstreams\n  $ caddy egress upstreams --state circuit_open",
		Args:    cobra.NoArgs,
	}, listUpstreams)
	flags := cmd.Flags()
	flags.String("handler", "", "Only of this handler: its name or its place")
	flags.String("group", "", "Only of this group")
	flags.String("state", "", "Only in this state: "+strings.Join(upstream.States[:], ", "))
	flags.String("limit", "", "How many are listed at most; default 1000")
	completeFlag(cmd, "state", upstream.States[:]...)
	return cmd
}

func listUpstreams(a *asking) error {
	told, err := a.api.ask(a.ctx, http.MethodGet, "upstreams", a.query("handler", "group", "state", "limit"), nil)
	if err != nil {
		return err
	}
	return a.print(told, func() error {
		var all []admin.Upstream
		if err := told.read(&all); err != nil {
			return err
		}
		if len(all) == 0 {
			_, err := fmt.Fprintln(a.out, "no upstreams")
			return err
		}
		if err := top.WriteUpstreams(a.out, all, time.Now()); err != nil {
			return err
		}
		return a.cutOff(len(all), told.total, "upstreams")
	})
}

// cutOff says that a list is not all there is.
func (a *asking) cutOff(have, total int, what string) error {
	if have >= total {
		return nil
	}
	_, err := fmt.Fprintf(a.out, "the first %d of %d %s; --limit shows more\n", have, total, what)
	return err
}

// stateCommands are drain, maint and ready.
func stateCommands() (all []*cobra.Command) {
	for _, c := range []struct{ state, flags, short, long string }{
		{"drain", " --for 15m --reason \"disk full\"", "Takes an upstream out of rotation; what is on it goes on", `
Takes an upstream out of rotation in all handlers: it gets no new requests. What is in
flight goes on, and so do active checks.`},
		{"maint", " --reason \"new kernel\"", "Takes an upstream out of rotation for maintenance; it is not checked", `
Takes an upstream out of rotation in all handlers for maintenance: it gets no new requests,
and no active checks. What is in flight goes on.`},
		{"ready", "", "Puts an upstream back into rotation", `
Puts an upstream back into rotation in all handlers: its health decides again. It gets all
of its configured weight, unless --weight says otherwise.`},
	} {
		cmd := asks(&cobra.Command{
			Use:   c.state + " <upstream> [--for <duration>] [--reason <text>] [--weight <share>] [--json]",
			Short: c.short,
			Long: c.long + `

<upstream> is the id, the URL or the address of an upstream of 'caddy egress upstreams'.
With --for, it is as configured again after that time. The change survives reloads and
restarts, and is logged with who made it and why.
`,
			Example:           "  $ caddy egress " + c.state + " one.example:3128" + c.flags,
			Args:              cobra.ExactArgs(1),
			ValidArgsFunction: completeUpstream,
		}, func(a *asking) error { return changeUpstream(a, c.state) })
		flags := cmd.Flags()
		flags.String("for", "", "How long it holds, such as 15m; default: until it is taken back")
		flags.String("reason", "", "Why, for the log and for others who look")
		flags.String("weight", "", "The share of its configured weight that it gets, from 1% to 100%")
		all = append(all, cmd)
	}
	return all
}

func changeUpstream(a *asking, state string) error {
	id, err := findUpstream(a, a.args[0])
	if err != nil {
		return err
	}
	change := admin.UpstreamChange{State: state, Weight: a.flags.String("weight")}
	if state == "ready" && change.Weight == "" {
		change.Weight = "100%"
	}
	change.For, change.Reason = a.flags.String("for"), a.flags.String("reason")
	told, err := a.api.ask(a.ctx, http.MethodPatch, "upstreams/"+url.PathEscape(id), nil, &change)
	if err != nil {
		return err
	}
	return a.print(told, func() error {
		var o admin.UpstreamOrder
		if err := told.read(&o); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, plaintext.Printable(upstreamOrderText(&o)))
		return err
	})
}

func upstreamOrderText(o *admin.UpstreamOrder) string {
	text := fmt.Sprintf("%s in group %s: %s", o.Upstream, o.Group, o.State)
	if o.Weight != "100%" {
		text += ", weight " + o.Weight
	}
	return text + orderText(&o.Order)
}

// orderText is how long an order holds, and whether it would survive a restart.
func orderText(o *admin.Order) string {
	text := ""
	if !o.Until.IsZero() {
		text += ", until " + o.Until.Local().Format("2006-01-02 15:04:05")
	}
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text + storedText(o)
}

func storedText(o *admin.Order) string {
	if o.Stored != nil && !*o.Stored {
		return " (not stored yet: until it is, a restart of Caddy undoes it; see Caddy's log)"
	}
	return ""
}

// maxListed is how many upstreams an error lists.
const maxListed = 20

// findUpstream returns the id of the upstream that a text means: by its id, else by its URL,
// else by its address. What is only ordered about can be meant as well. A URL with a user
// means the account of that user, which the id tells: neither side sends credentials.
func findUpstream(a *asking, text string) (id string, err error) {
	all, err := knownUpstreams(a)
	if err != nil {
		return "", err
	}
	name, user, credentials := upstream.CutCredentials(text)
	named := func(u *admin.Upstream) bool { return u.Address == name || strings.HasSuffix(u.URL, "://"+name) }
	ways := []func(*admin.Upstream) bool{
		func(u *admin.Upstream) bool { return u.ID == name },
		func(u *admin.Upstream) bool { return u.URL == name },
		named,
	}
	if credentials {
		named = func(u *admin.Upstream) bool {
			shared, _, _ := strings.Cut(u.URL, "#")
			return shared == name || strings.HasSuffix(shared, "://"+name)
		}
		ways = []func(*admin.Upstream) bool{func(u *admin.Upstream) bool {
			shared, _, _ := strings.Cut(u.URL, "#")
			return named(u) && upstream.IsAccount(u.ID, u.Group, shared, user)
		}}
	}
	for _, means := range ways {
		meant := distinct(all, means)
		switch len(meant) {
		case 0:
		case 1:
			return meant[0].ID, nil
		default:
			return "", notFound("'%s' is more than one upstream; say which by its id:%s", plaintext.Short(name, maxProblem), listed(meant))
		}
	}
	if there := distinct(all, named); credentials && len(there) > 0 {
		return "", notFound("user '%s' has no account at '%s'; there are:%s", plaintext.Short(user, maxProblem), plaintext.Short(name, maxProblem), listed(there))
	}
	if len(all) == 0 {
		return "", notFound("there is no upstream '%s': no handler has a group of upstreams", plaintext.Short(name, maxProblem))
	}
	return "", notFound("there is no upstream '%s'; there are:%s", plaintext.Short(name, maxProblem), listed(distinct(all, func(*admin.Upstream) bool { return true })))
}

// knownUpstreams are those of handlers, and those that are ordered about. Where its settings
// or its URL differ between handlers, an upstream is there twice, with one id.
func knownUpstreams(a *asking) (all []admin.Upstream, err error) {
	most := url.Values{"limit": {"10000"}}
	told, err := a.api.ask(a.ctx, http.MethodGet, "upstreams", most, nil)
	if err == nil {
		err = told.read(&all)
	}
	if err != nil {
		return nil, err
	}
	standing, err := standingOrders(a, most)
	if err != nil {
		return nil, err
	}
	for _, o := range standing.Items {
		if !o.Present {
			all = append(all, admin.Upstream{ID: o.Ordered.ID, URL: o.Ordered.Upstream, Group: o.Ordered.Group})
		}
	}
	return all, nil
}

// distinct are those that are meant, each id once.
func distinct(all []admin.Upstream, means func(*admin.Upstream) bool) (meant []admin.Upstream) {
	known := make(map[string]bool)
	for i := range all {
		if u := &all[i]; means(u) && !known[u.ID] {
			known[u.ID] = true
			meant = append(meant, *u)
		}
	}
	return meant
}

func listed(all []admin.Upstream) string {
	var b strings.Builder
	for i, u := range all {
		if i == maxListed {
			fmt.Fprintf(&b, " and %d more ('caddy egress upstreams' lists them)", len(all)-i)
			break
		}
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, " %s (%s in group %s)", plaintext.Printable(u.ID), plaintext.Printable(u.URL), plaintext.Printable(u.Group))
	}
	return b.String()
}
