package egress

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/metrics"
	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/words"
)

// provisionMetrics begins to count what becomes of requests, or goes on where the handler
// at this place before has stopped.
func (h *Handler) provisionMetrics(ctx caddy.Context) error {
	if err := checkMetricsUsers(h.MetricsUsers); err != nil {
		return fmt.Errorf("metrics_users: %w", err)
	}
	h.recorder = metrics.Acquire(h.place(), slices.Collect(maps.Keys(h.Groups)), h.MetricsUsers)
	if metrics.Counted {
		h.proxy.Recorder, h.proxy.Direct.Recorder = h.recorder, h.recorder
	}
	return metrics.Register(ctx.GetMetricsRegistry(), admin.Version(), serving)
}

// countClients has the connections to a server counted.
func (h *Handler) countClients(server *caddyhttp.Server) {
	if metrics.Counted {
		server.RegisterConnState(h.recorder.Clients().State)
	}
}

// serving are the handlers that serve, as metrics know them.
func serving() (all []metrics.Handler) {
	found, places := admin.Handlers.ByPlace()
	for _, place := range places {
		if h, ok := found[place].(metrics.Handler); ok {
			all = append(all, h)
		}
	}
	return all
}

// checkMetricsUsers refuses names that cannot be labels of metrics.
func checkMetricsUsers(names []string) error {
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		switch {
		case name == "":
			return errors.New("the name of a user is empty")
		case name == metrics.OtherUsers:
			return fmt.Errorf("'%s' stands for all other users", name)
		case !utf8.ValidString(name):
			return fmt.Errorf("'%s' is not UTF-8", plaintext.Printable(name))
		case seen[name]:
			return fmt.Errorf("'%s' stands twice", plaintext.Printable(name))
		}
		seen[name] = true
	}
	if len(names) > metrics.MaxUsers {
		return fmt.Errorf("%d users, but at most %d have metrics of their own", len(names), metrics.MaxUsers)
	}
	return nil
}

// unmarshalMetricsUsers reads the users that metrics tell apart.
func (h *Handler) unmarshalMetricsUsers(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("metrics_users wants the names of users")
	}
	h.MetricsUsers = args
	if slices.ContainsFunc(args, words.HasPlaceholder) {
		return nil
	}
	if err := checkMetricsUsers(args); err != nil {
		return d.Errf("metrics_users: %v", err)
	}
	return nil
}
