package core

import (
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/upstream"
)

// This file contains how the connection of an exchange becomes a tunnel: the client has
// asked to switch to another protocol, and the origin does (RFC 9110 §7.8).

// Upgrade counts the tunnel that the exchange is about to ask for against the limits of the
// handler, or refuses it. Close gives that back. From here on the request leaves over tunnels
// only.
func (t *Request) Upgrade() (tun Tunnel, err error) {
	tun.r, t.Use = t, upstream.Upgrade
	tun.slot, err = t.takeSlot()
	return tun, err
}

// Through takes a place for the tunnel on the current member, before the origin is asked,
// or refuses that. The returned function ends the attempt: it gives the place back, unless
// the tunnel has its far end, or Close has done so.
func (t *Tunnel) Through() (done func(), err error) {
	if t.r.Ways.Current.Direct() {
		return func() {}, nil
	}
	if err := t.r.startTunnel(); err != nil {
		return nil, err
	}
	t.slot.Upstream = t.r.Ways.Current.Health
	return func() {
		if t.conn == nil {
			t.slot.LeaveUpstream()
		}
	}, nil
}

// Switch makes the connection of the exchange, which has brought a 101, the far end of the
// tunnel. The pool counts it no more.
func (t *Tunnel) Switch(l *origin.Lease) error {
	t.told = l.Conn().Told
	conn, early, err := l.Conn().Detach()
	if err != nil {
		l.Discard()
		return err
	}
	l.Detach()
	t.conn, t.early = conn, early
	return nil
}

// Stands reports whether the tunnel has its far end.
func (t *Tunnel) Stands() bool { return t.conn != nil }
