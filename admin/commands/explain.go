package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/explain"
)

// This file contains `caddy egress explain`.

// Exit codes of `caddy egress explain`. An error is 1, as everywhere in Caddy.
const (
	exitDenied      = 2
	exitUnavailable = 3
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [--config <file> [--adapter <name>]] [--address <admin>] [--handler <place>] [--user <name>] [--session <name>] [--client-ip <ip>] [--method <method>] [--header <name: value>] [--json] <url|host:port>",
		Short: "Tells what would become of a request, without sending it",
		Long: `
Tells what a forward proxy would do with a request, and why: which access rule
decides, which route matches, to which addresses the name resolves and whether
they may be dialed, which upstream proxies there are, how they are, and which one
would be next. http://host/path asks about an exchange, host:port about a tunnel
(CONNECT), which is how clients ask for https.

Nothing is sent to the destination or an upstream. Only the name is resolved, as
a request would have it, by the resolver that is configured for it.

The Caddy that runs is asked through its admin API, at --address. With --config,
a configuration is read instead: it is provisioned as 'caddy validate' does, but
not run, so that the state of upstreams is unknown.

Where there are several egress handlers, --handler says which one is meant: by
the addresses of its server, and its number among the handlers there, as in
:8080 or :8080#1.

The user is taken as given: no password is needed. Directives of the site that
come before egress are not run.

Exit codes: 0, the request is allowed (or goes to the site); 1, an error; 2, it
is denied; 3, nothing forbids it, but it would fail now: the name does not
resolve, no upstream can be used, a limit is reached or a circuit is open.
`,
		Example:      "  $ caddy egress explain --user alice http://example.com/\n  $ caddy egress explain --config Caddyfile example.com:443",
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
	}
	flags := cmd.Flags()
	flags.StringP("config", "c", "", "Configuration file to read instead of asking the Caddy that runs")
	flags.StringP("adapter", "a", "", "Name of the config adapter of the file")
	flags.String("address", "", "Address of the admin API; default "+caddy.DefaultAdminListen)
	flags.String("handler", "", "The egress handler that is meant, where there are several")
	flags.String("user", "", "User who asks")
	flags.String("session", "", "Session of the user")
	flags.String("client-ip", "", "IP address from which they ask; default 127.0.0.1")
	flags.String("method", "", "Method; default GET with a URL and CONNECT with host:port")
	flags.StringArrayP("header", "H", nil, "Field of the request, as 'Name: value'; repeatable")
	flags.Bool("json", false, "Print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true // those from here on are logged; and a verdict is none
		return caddycmd.WrapCommandFuncForCobra(func(fl caddycmd.Flags) (int, error) {
			return runExplain(cmd.Context(), fl, args[0], cmd.OutOrStdout())
		})(cmd, args)
	}
	return cmd
}

func runExplain(ctx context.Context, fl caddycmd.Flags, what string, out io.Writer) (int, error) {
	asked, err := askedFor(fl, what)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ask := askRunning
	if fl.String("config") != "" {
		ask = askConfig
	}
	e, err := ask(ctx, fl, asked)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if fl.Bool("json") {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "\t")
		err = enc.Encode(e)
	} else {
		err = e.WriteText(out)
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	switch e.Verdict {
	case explain.Denied:
		return exitDenied, nil
	case explain.Unavailable:
		return exitUnavailable, nil
	}
	return caddy.ExitCodeSuccess, nil
}

// askedFor reads the request from the command line.
func askedFor(fl caddycmd.Flags, what string) (*explain.Request, error) {
	asked := &explain.Request{
		User:     fl.String("user"),
		Session:  fl.String("session"),
		ClientIP: fl.String("client-ip"),
		Method:   fl.String("method"),
	}
	if strings.Contains(what, "://") {
		asked.URL = what
	} else {
		asked.Target = what
	}
	fields, err := fl.GetStringArray("header")
	if err != nil {
		return nil, err
	}
	for _, field := range fields {
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return nil, errors.New("--header: write 'Name: value'")
		}
		if asked.Headers == nil {
			asked.Headers = make(http.Header)
		}
		asked.Headers.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return asked, nil
}

// askRunning asks the Caddy that runs.
func askRunning(ctx context.Context, fl caddycmd.Flags, asked *explain.Request) (*explain.Explanation, error) {
	if fl.String("adapter") != "" {
		return nil, errors.New("--adapter is for the file that --config names")
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, "", "")
	if err != nil {
		return nil, err
	}
	c, err := newClient(address)
	if err != nil {
		return nil, err
	}
	var query url.Values
	if place := fl.String("handler"); place != "" {
		query = url.Values{"handler": {place}}
	}
	told, err := c.ask(ctx, http.MethodPost, "explain", query, asked)
	if err != nil {
		return nil, fmt.Errorf("asking the Caddy at %s (--config asks a file instead): %w", address, err)
	}
	e := new(explain.Explanation)
	return e, told.read(e)
}

// askConfig asks a configuration that is not running.
func askConfig(ctx context.Context, fl caddycmd.Flags, asked *explain.Request) (*explain.Explanation, error) {
	if fl.String("address") != "" {
		return nil, errors.New("--address is of a Caddy that runs, and --config asks a file")
	}
	config, _, _, err := caddycmd.LoadConfig(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, err
	}
	found, cleanUp, err := admin.ProvisionDry(config)
	if err != nil {
		return nil, err
	}
	defer cleanUp()
	h, err := found.Find(fl.String("handler"))
	if err != nil {
		return nil, err
	}
	return h.Explain(ctx, asked)
}
