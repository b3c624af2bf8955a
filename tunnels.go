package egress

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-egress/egress/internal/dial"
	"github.com/caddy-egress/egress/internal/matchers"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/settings"
	"github.com/caddy-egress/egress/internal/target"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/words"
)

// Tunnel holds the timers and limits of tunnels. Where a limit counts or
// measures, 0 means none and -1 is off, which is the same.
type Tunnel struct {
	// IdleTimeout ends a tunnel in which no byte has moved in either
	// direction for so long. Default: 15m; -1 for never.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// Timeout ends a tunnel of that age, however busy. Default: none.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// HalfCloseTimeout ends a tunnel of which one side has ended its
	// direction when no byte has moved for so long. Default: 60s; -1 for as long as it likes.
	HalfCloseTimeout caddy.Duration `json:"half_close_timeout,omitempty"`

	// MaxTunnels limits the tunnels of this handler. A CONNECT over it gets
	// 503 at once, with `connection_limit_reached` in Proxy-Status (RFC 9209
	// §2.3.12). A tunnel counts from before its destination is dialed until
	// it is closed, also while it outlives the configuration that it began
	// under. Default: no limit.
	MaxTunnels int `json:"max_tunnels,omitempty"`

	// MaxPerClient limits the tunnels of one client, known by its IP address
	// as Caddy's `{client_ip}` has it. Tunnels that were opened while there
	// was no such limit do not count. Default: no limit.
	MaxPerClient int `json:"max_per_client,omitempty"`

	// MaxPerUser limits the tunnels of one authenticated user. A tunnel
	// without a user is not limited by it, and those that were opened while
	// there was no such limit do not count. Default: no limit.
	MaxPerUser int `json:"max_per_user,omitempty"`

	// RatePerTunnel limits the bytes per second of a tunnel (exchanges have no rate), in each
	// direction by itself. After a pause, a quarter of a second's worth may
	// pass at once, but at least 4 KiB. Default: no limit.
	RatePerTunnel int64 `json:"rate_per_tunnel,omitempty"`

	// RatePerUser limits the bytes per second of all tunnels of a user
	// through this handler together, one after the other as well as side by
	// side, in each direction by itself, with the same burst. A reload changes
	// it for the tunnels that are there, once the user opens another. A tunnel without a user is not limited by it. Default: no
	// limit.
	RatePerUser int64 `json:"rate_per_user,omitempty"`

	// CloseDelay is how long tunnels may go on when their handler is no longer in
	// the configuration, or when the process exits; then they are ended in order.
	// A handler that lives on in a new configuration, known by its name, keeps its
	// tunnels. At exit the process waits for them, and the grace period, where one
	// is set, is the limit. 0 ends them at once. Default: 30s.
	CloseDelay *caddy.Duration `json:"close_delay,omitempty"`

	// OnPolicyChange is what becomes of tunnels that stand when the access
	// rules change, be it in a file or by a reload that keeps this handler. `close` ends those that the new rules forbid, by name, port
	// or the address they are connected to, also those that were opened under
	// `keep`. Of a tunnel through an upstream proxy that is told names no address is known: the
	// rules on names and ports decide, and on the address where the client
	// named one. On a reload those end too whose user is gone, has another password or
	// has to log in now, and those that the routes deny, as far as that is known.
	// `keep` leaves them. Default: `keep`.
	OnPolicyChange string `json:"on_policy_change,omitempty"`
}

// What can become of tunnels that new rules forbid.
const (
	policyKeep  = "keep"
	policyClose = "close"
)

func (t *Tunnel) withDefaults() Tunnel {
	out := Tunnel{}
	if t != nil {
		out = *t
	}
	settings.Default(&out.IdleTimeout, caddy.Duration(15*time.Minute))
	settings.Default(&out.HalfCloseTimeout, caddy.Duration(time.Minute))
	settings.Default(&out.OnPolicyChange, policyKeep)
	if out.CloseDelay == nil {
		delay := caddy.Duration(30 * time.Second)
		out.CloseDelay = &delay
	}
	return out
}

// validate checks settings that have their defaults.
func (t *Tunnel) validate() error {
	for _, d := range []struct {
		name  string
		value caddy.Duration
	}{{"idle_timeout", t.IdleTimeout}, {"timeout", t.Timeout}, {"half_close_timeout", t.HalfCloseTimeout}} {
		if d.value < 0 && d.value != words.NoLimit {
			return fmt.Errorf("tunnel.%s: %s is not positive (-1 is off)", d.name, time.Duration(d.value))
		}
	}
	if *t.CloseDelay < 0 {
		return fmt.Errorf("tunnel.close_delay: %s is negative", time.Duration(*t.CloseDelay))
	}
	for _, n := range []struct {
		name  string
		value int64
	}{
		{"max_tunnels", int64(t.MaxTunnels)},
		{"max_per_client", int64(t.MaxPerClient)},
		{"max_per_user", int64(t.MaxPerUser)},
		{"rate_per_tunnel", t.RatePerTunnel},
		{"rate_per_user", t.RatePerUser},
	} {
		if n.value < words.NoLimit {
			return fmt.Errorf("tunnel.%s: %d is below 1 (-1 is off)", n.name, n.value)
		}
	}
	if t.OnPolicyChange != policyKeep && t.OnPolicyChange != policyClose {
		return fmt.Errorf("tunnel.on_policy_change: unknown value %q: one of keep, close", t.OnPolicyChange)
	}
	return nil
}

// limits are those that the book counts against.
func (t *Tunnel) limits() tunnels.Limits {
	return tunnels.Limits{
		Tunnels:     t.MaxTunnels,
		PerClient:   t.MaxPerClient,
		PerUser:     t.MaxPerUser,
		RatePerUser: t.RatePerUser,
	}
}

func (h *Handler) provisionTunnel(ctx caddy.Context) error {
	h.tunnel = h.Tunnel.withDefaults()
	if err := h.tunnel.validate(); err != nil {
		return err
	}
	h.warnAboutRates()
	off := func(d caddy.Duration) time.Duration { return max(time.Duration(d), 0) }
	h.proxy.Limits, h.proxy.CloseDelay = h.tunnel.limits(), time.Duration(*h.tunnel.CloseDelay)
	h.proxy.RatePerTunnel = h.tunnel.RatePerTunnel
	h.proxy.Timers = relay.Config{
		IdleTimeout:      off(h.tunnel.IdleTimeout),
		HalfCloseTimeout: off(h.tunnel.HalfCloseTimeout),
		Lifetime:         off(h.tunnel.Timeout),
	}
	return h.acquireTunnels(ctx)
}

// acquireTunnels loads the handler's book.
func (h *Handler) acquireTunnels(ctx caddy.Context) error {
	key, leave, err := h.identity(ctx)
	if err != nil {
		return err
	}
	use, err := tunnels.Acquire(key, drainLogger)
	if err != nil {
		leave()
		return err
	}
	h.proxy.Tunnels, h.leaveIdentity = use, leave
	return nil
}

// releaseTunnels gives the handler's own part back, if it has one. Requests may
// still be under way, so the handler keeps what it knows.
func (h *Handler) releaseTunnels() {
	if h.proxy.Tunnels == nil {
		return
	}
	h.leaveIdentity()
	if p := h.proxy.Policy; p != nil {
		h.proxy.Tunnels.Value.Live.Leave(p, h.besides == activeConfig())
	}
	h.proxy.Tunnels.Release()
}

// enterBook lets the tunnels follow the access rules.
func (h *Handler) enterBook(caddy.Context) error {
	live := &h.proxy.Tunnels.Value.Live
	p := &tunnels.Policy{
		Forbids:    forbiddenTunnels(h.proxy.Direct.Dialer, h.tunnel.OnPolicyChange),
		Refuses:    h.refusedTunnels(),
		CloseDelay: time.Duration(*h.tunnel.CloseDelay),
		Handler:    h.place(),
		Logger:     h.logger.Named("acl"),
	}
	h.proxy.Policy, h.besides = p, activeConfig()
	live.Enter(p)
	return nil
}

// forbiddenTunnels is what tells the tunnels that the access rules forbid; nil where they
// are kept. It is asked after the tunnel was listed, for the rules of that moment.
func forbiddenTunnels(d *dial.Dialer, onChange string) func(target.Target, netip.Addr) bool {
	if onChange != policyClose {
		return nil
	}
	return func(dest target.Target, addr netip.Addr) bool {
		if addr.IsValid() {
			return d.Check(dest, addr) != nil
		}
		return d.CheckUnresolved(context.Background(), dest, nil) != nil
	}
}

// refusedTunnels is what tells the tunnels of configurations before that this one would
// not open, because their users may no longer log in, or since the routes deny what was
// asked for; nil where they are kept.
func (h *Handler) refusedTunnels() func(*tunnels.Asked) bool {
	if h.tunnel.OnPolicyChange != policyClose {
		return nil
	}
	return func(a *tunnels.Asked) bool { return h.refusesLogin(a) || h.refusesRoute(a) }
}

func (h *Handler) refusesLogin(a *tunnels.Asked) bool {
	return h.Auth.enabled() && (a.Login == nil || !h.Auth.users.Knows(a.Login))
}

func (h *Handler) refusesRoute(a *tunnels.Asked) bool {
	if h.unrouted != nil {
		return false
	}
	r := matchers.Remembered(a)
	for _, route := range h.Routes {
		switch m := matchers.Judge(route.matchers, r); {
		case m == matchers.No:
		case route.way.To.Deny == nil:
			return false // it may be the one
		case m == matchers.Yes:
			return true
		}
	}
	return true
}
