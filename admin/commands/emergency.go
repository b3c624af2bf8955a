package commands

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains `caddy egress emergency`.

func emergencyCommand() *cobra.Command {
	cmd := asks(&cobra.Command{
		Use:   "emergency [on|off] [--for <duration>] [--reason <text>] [--end-tunnels] [--json]",
		Short: "Denies all new requests, or serves them again",
		Long: `
With 'on', all handlers deny all new requests with status 503; with 'off', they serve them
again. With neither, it tells whether that is so. Tunnels that are open go on, unless
--end-tunnels ends them. The emergency survives reloads and restarts; with --for, it ends by
itself.
`,
		Example:   "  $ caddy egress emergency on --reason break-in --end-tunnels\n  $ caddy egress emergency off",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), onOff),
		ValidArgs: []string{"on", "off"},
	}, emergency)
	flags := cmd.Flags()
	flags.String("for", "", "How long it lasts, such as 15m; default: until it is turned off")
	flags.String("reason", "", "Why, for the log and for others who look")
	flags.Bool("end-tunnels", false, "End the tunnels that are open, too")
	return cmd
}

func onOff(_ *cobra.Command, args []string) error {
	if len(args) > 0 && args[0] != "on" && args[0] != "off" {
		return fmt.Errorf("emergency: '%s' is neither on nor off", plaintext.Short(args[0], maxProblem))
	}
	return nil
}

func emergency(a *asking) error {
	order := admin.EmergencyOrder{EndTunnels: a.flags.Bool("end-tunnels")}
	order.For, order.Reason = a.flags.String("for"), a.flags.String("reason")
	method, body := http.MethodGet, any(nil)
	switch {
	case len(a.args) > 0 && a.args[0] == "on":
		method, body = http.MethodPut, &order
	case order != admin.EmergencyOrder{}:
		return errors.New("--for, --reason and --end-tunnels are for 'emergency on'")
	case len(a.args) > 0:
		method = http.MethodDelete
	}
	told, err := a.api.ask(a.ctx, method, "emergency", nil, body)
	if err != nil {
		return err
	}
	return a.print(told, func() error {
		var s admin.EmergencyState
		if err := told.read(&s); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.out, plaintext.Printable(emergencyText(&s)))
		return err
	})
}

func emergencyText(s *admin.EmergencyState) string {
	if !s.On {
		text := "emergency off: requests are served"
		if s.Order != nil {
			text += storedText(s.Order)
		}
		return text
	}
	text := "emergency on: all new requests are denied"
	if s.Ended != nil {
		text += fmt.Sprintf(", tunnels ended: %d", *s.Ended)
	}
	if s.Order != nil {
		text += ", by " + s.Order.By + orderText(s.Order)
	}
	return text
}
