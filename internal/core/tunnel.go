package core

import (
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// TakeSlot counts the tunnel against the limits of the handler, or refuses it.
func (t *Request) TakeSlot() (tunnels.Slot, error) {
	var client, user string
	limits := t.Proxy.Limits
	if limits.PerClient > 0 {
		client = t.Client.IP()
	}
	if limits.PerUser > 0 || limits.RatePerUser > 0 {
		user = t.Client.User()
	}
	return t.Proxy.Tunnels.Take(client, user, limits)
}

// RelayConfig is what timers and rates of the configuration mean for a relay.
func (t *Request) RelayConfig(slot *tunnels.Slot) relay.Config {
	cfg := t.Proxy.Timers
	cfg.UpRates, cfg.DownRates = slot.Rates(t.Proxy.RatePerTunnel)
	return cfg
}
