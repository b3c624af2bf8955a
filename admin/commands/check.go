package commands

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains `caddy egress check`.

// checkTime is more than a check takes: the API bounds it by a minute.
const checkTime = 70 * time.Second

func checkCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "check <upstream> [--handler <place>] [--json]",
		Short: "Checks an upstream now, and tells what took how long",
		Long: `
Has the running Caddy check an upstream now, as its health_check says, and prints what came
of it and what took how long. It counts as the scheduled checks do. Without a health_check,
it only tells whether the upstream can be connected to.

<upstream> is the id, the URL or the address of an upstream of 'caddy egress upstreams'.
The exit code is 1 where the check did not pass.
`,
		Example:           "  $ caddy egress check one.example:3128",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeUpstream,
	}, checkUpstream)
	cmd.Flags().String("handler", "", "The handler whose check it is: its name or its place")
	return cmd
}

func checkUpstream(a *asking) error {
	id, err := findUpstream(a, a.args[0])
	if err != nil {
		return err
	}
	a.api.http.Timeout = checkTime
	told, err := a.api.ask(a.ctx, http.MethodPost, "upstreams/"+url.PathEscape(id)+"/check", a.query("handler"), nil)
	if err != nil {
		return err
	}
	var c admin.CheckedUpstream
	if err := told.read(&c); err != nil {
		return err
	}
	err = a.print(told, func() error {
		_, err := fmt.Fprintln(a.out, plaintext.Printable(checkText(&c)))
		return err
	})
	if err == nil && c.Outcome != "passed" {
		err = errors.New("the check did not pass: " + c.Outcome)
	}
	return err
}

// checkText is what came of a check, in one line.
func checkText(c *admin.CheckedUpstream) string {
	text := fmt.Sprintf("%s in group %s: %s check %s in %s", c.Upstream, c.Group, c.Type, c.Outcome, timeText(float64(c.Seconds)))
	var parts []string
	for _, p := range []struct {
		name string
		took float64
	}{
		{"dns", float64(c.Timing.DNS)},
		{"connect", float64(c.Timing.Connect)},
		{"tls", float64(c.Timing.TLS)},
		{"login", float64(c.Timing.Login)},
		{"answer", float64(c.Timing.Answer)},
	} {
		if p.took > 0 {
			parts = append(parts, p.name+" "+timeText(p.took))
		}
	}
	if len(parts) > 0 {
		text += " (" + strings.Join(parts, ", ") + ")"
	}
	text += "; it is " + c.State
	if !c.Counts {
		text += "; not counted: " + c.Why
	}
	if c.Error != "" {
		text += "; " + c.Error
	}
	return text
}

// timeText is a time for people.
func timeText(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}
