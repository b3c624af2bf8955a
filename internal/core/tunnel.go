package core

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tracing"
	"github.com/caddy-egress/egress/internal/tunnels"
	"github.com/caddy-egress/egress/internal/upstream"
)

// Tunnel is a tunnel whose far end stands, and whose client is yet to be told. Close ends
// it, unless it was started.
type Tunnel struct {
	r     *Request
	slot  tunnels.Slot // what it holds
	conn  net.Conn     // the far end
	told  netip.Addr   // of the destination, that an upstream was told; not valid for none
	early []byte       // came behind the answer of an upstream
	span  tracing.Span // until it is begun
}

// Connect opens the tunnel that the request asks for: it connects to the destination, and
// only then is the client told (RFC 9110 §9.3.6).
func (t *Request) Connect() (tun Tunnel, err error) {
	if err := t.CheckVia(); err != nil {
		return tun, err
	}
	lines := 0
	for _, values := range t.HTTP.Header {
		lines += len(values)
	}
	if lines > h1.MaxFields {
		return tun, failure.Fields.Because(fmt.Errorf("over %d", h1.MaxFields))
	}
	tun.r = t
	if tun.slot, err = t.takeSlot(); err != nil {
		return tun, err
	}
	if err := t.openTunnel(&tun); err != nil {
		tun.slot.Release()
		return tun, err
	}
	return tun, nil
}

// takeSlot counts the tunnel against the limits of the handler, or refuses it.
func (t *Request) takeSlot() (tunnels.Slot, error) {
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

// Relay is what relays between the client, of which early was read already, and the far
// end. The tunnel is listed from here on: it may be ended at once, by rules that have
// changed, or at exit. Run or Start begins it.
func (t *Tunnel) Relay(client relay.Stream, early []byte) *relay.Relay {
	cfg := t.r.Proxy.Timers
	cfg.UpRates, cfg.DownRates = t.slot.Rates(t.r.Proxy.RatePerTunnel)
	cfg.EarlyUp, cfg.EarlyDown = early, t.early
	rel := relay.New(client, relay.StreamOf(t.conn), cfg)
	t.slot.Follow(rel, t.r.asked(), t.destination(), t.r.Proxy.Policy, t.r.Proxy.CloseDelay)
	return rel
}

// destination is the address of the destination that the tunnel leads to, as far as it is
// known: through an upstream, that which it was told.
func (t *Tunnel) destination() netip.Addr {
	if t.slot.Upstream == nil {
		return t.r.Outcome.Remote
	}
	return t.told
}

// asked is what is remembered of the request.
func (t *Request) asked() tunnels.Asked {
	a := tunnels.Asked{
		Target: t.Target, Login: t.Login, Peer: parseAddrPort(t.HTTP.RemoteAddr).Addr(),
		Major: uint8(t.HTTP.ProtoMajor), Minor: uint8(t.HTTP.ProtoMinor), TLS: t.HTTP.TLS != nil,
		User: t.Client.User(),
	}
	if m := t.Ways.Current.Member; m != nil && t.Outcome.Upstream != "" {
		a.Via = &tunnels.Via{Group: m.Group.Name, Upstream: m.Name, ID: m.ID()}
	}
	if t.Use != upstream.Tunnel {
		a.Method = strings.Clone(t.HTTP.Method)
	}
	a.Client, _ = t.ClientAddr()
	return a
}

// Run relays until the tunnel ends, and accounts for it.
func (t *Tunnel) Run(rel *relay.Relay) relay.Result {
	ended := t.begin()
	result := rel.Run()
	t.r.Outcome.Account(result, t.r.Start)
	ended(result)
	return result
}

// Start relays without its caller, and holds nothing of the request meanwhile. When the
// tunnel has ended and is no longer counted, but before it is off the list, done is called,
// unless it is nil.
func (t *Tunnel) Start(rel *relay.Relay, done func(relay.Result)) {
	held, ended := t.slot.Move(), t.begin()
	rel.Start(func(result relay.Result) {
		slot := held // held is never changed, so it is part of the closure and no object of its own
		slot.ReleaseAround(func() {
			ended(result)
			if done != nil {
				done(result)
			}
		})
	})
}

// Close gives back what the tunnel holds, but for its connections. It does nothing where
// Start was called.
func (t *Tunnel) Close() {
	t.dropSpan()
	t.slot.Release()
}

// Abandon closes the far end of a tunnel that is not begun.
func (t *Tunnel) Abandon() { _ = layers.Close(t.conn) }

// Break resets the far end of a tunnel that is not begun, but that the client may think
// it has.
func (t *Tunnel) Break() { relay.Reset(relay.StreamOf(t.conn)) }
