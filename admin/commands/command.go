package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin/top"
)

// This file contains what the commands that ask a running Caddy have in common.

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "egress",
		Usage: "<command>",
		Short: "Commands of the egress forward proxy",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.AddCommand(topCommand(), upstreamsCommand(), tunnelsCommand(), killCommand(), emergencyCommand(), explainCommand(), checkCommand())
			cmd.AddCommand(append(stateCommands(), ordersCommand())...)
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(*cobra.Command, []string) error {
				var names []string
				for _, c := range cmd.Commands() {
					names = append(names, c.Name())
				}
				return errors.New("which command of egress? there are: " + strings.Join(names, ", "))
			}
		},
	})
}

// exitRefused is the exit code where the API refuses something, or it is not there. Other
// errors are 1, as everywhere in Caddy.
const exitRefused = 2

// exitCodes stands in the help of each command.
const exitCodes = `
Exit codes: 0, done; 1, an error, such as no answer from the admin API; 2, refused by the
admin API, or not found.
`

// asking is one run of a command.
type asking struct {
	ctx   context.Context
	flags caddycmd.Flags
	args  []string
	out   io.Writer
	api   *client
}

// asks completes a command that asks the Caddy that runs.
func asks(cmd *cobra.Command, run func(*asking) error) *cobra.Command {
	cmd.Long = "\n" + strings.TrimSpace(cmd.Long) + "\n" + exitCodes
	cmd.SilenceUsage = true
	flags := cmd.Flags()
	flags.String("address", "", "Address of the admin API; default: that of --config, else "+caddy.DefaultAdminListen)
	flags.StringP("config", "c", "", "Configuration file that has the address of the admin API")
	flags.StringP("adapter", "a", "", "Name of the config adapter of the file")
	flags.Bool("json", false, "Print what the admin API answers, as it is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true // those from here on are logged
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			a, err := newAsking(cmd, fl, args)
			if err == nil {
				err = run(a)
			}
			return exitCode(err)
		})(cmd, args)
	}
	return cmd
}

func newAsking(cmd *cobra.Command, fl caddycmd.Flags, args []string) (*asking, error) {
	if fl.String("adapter") != "" && fl.String("config") == "" {
		return nil, errors.New("--adapter is for the file that --config names")
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, err
	}
	api, err := newClient(address)
	if err != nil {
		return nil, err
	}
	a := &asking{ctx: cmd.Context(), flags: fl, args: args, out: cmd.OutOrStdout(), api: api}
	if a.ctx == nil {
		a.ctx = context.Background()
	}
	return a, nil
}

// exitCode is what a command ends with, and what it says.
func exitCode(err error) (int, error) {
	if signal, ok := errors.AsType[top.Signal](err); ok {
		if n, ok := signal.Signal.(syscall.Signal); ok {
			return 128 + int(n), nil // as shells have it
		}
	}
	if refused, ok := errors.AsType[*refusal](err); ok && refused.status < http.StatusInternalServerError {
		return exitRefused, err
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// notFound is an error about something that is not there, or not only once.
func notFound(format string, args ...any) error {
	return &refusal{http.StatusNotFound, fmt.Sprintf(format, args...)}
}

// print writes an answer: as it is with --json, otherwise as text does it.
func (a *asking) print(told *answer, text func() error) error {
	if !a.flags.Bool("json") {
		return text()
	}
	_, err := a.out.Write(told.body)
	return err
}

// query has the parameters that flags of the same name were given for: --min-age is min_age.
func (a *asking) query(names ...string) url.Values {
	query := make(url.Values)
	for _, name := range names {
		if v := a.flags.String(name); v != "" {
			query.Set(strings.ReplaceAll(name, "-", "_"), v)
		}
	}
	return query
}
