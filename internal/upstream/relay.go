package upstream

import (
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
)

// This file contains which upstreams may go on relaying behind a response in absolute form,
// as tinyproxy does (seen in 1.11.1) behind one that has no Content-Length or none but 0, or
// is informational: an origin that keeps its connection open would get the next request on
// this one, whoever it is for. Nothing is lost by not using it again: where the origin
// closes, tinyproxy does.
//
// An origin can write the Via of tinyproxy to make connections to its parent be used once,
// and leaves none out of what a parent relays that adds its own. That costs others time; the
// opposite would cost them their requests. So what a Via has vouched for is forgotten with
// the first response that has none: an origin has forged it.

// relay is what is known of how an upstream relays.
type relay struct {
	added  atomic.Bool  // a response had a Via
	single atomic.Bool  // it has named itself tinyproxy
	via    origin.Trust // each response had one, if any had
}

// trust is what connections to it are used again on the strength of; nil for nothing.
func (r *relay) trust() *origin.Trust {
	if r.added.Load() && !r.single.Load() && r.via.Holds() {
		return &r.via
	}
	return nil
}

// NoteRelay takes from the head of a response in absolute form what it says of the upstream,
// which has relayed it: it was not asked for itself. Connections that it proves wrong about
// are closed.
func (m *Member) NoteRelay(hd *h1.Head) {
	r, via := &m.Health.relay, nearestVia(hd)
	switch {
	case strings.Contains(via, "(tinyproxy/"):
		if r.single.Load() || r.single.Swap(true) {
			return // or each response would write to what others read
		}
	case hd.Status < http.StatusOK || hd.Status >= http.StatusBadRequest:
		return // not all add one to what is informational, or to pages of their own
	case via != "":
		if !r.added.Load() {
			r.added.Store(true)
		}
		return
	case !r.via.End():
		return
	}
	m.Conns.Pool.Drop(func(k origin.Key, c *origin.Conn) bool { return k.InAbsoluteForm() && !m.TakesAgain(c) })
}

// nearestVia is the last element of Via; "" where there is none.
func nearestVia(hd *h1.Head) string {
	nearest := ""
	for i := range hd.Fields {
		if f := &hd.Fields[i]; f.Name == "Via" && f.Value != "" {
			nearest = f.Value[strings.LastIndexByte(f.Value, ',')+1:]
		}
	}
	return nearest
}

// Vouch marks a connection behind whose response tinyproxy would go on relaying, and reports
// whether it can be used again all the same: the upstream is known to be another program, by
// the Via that it adds to whatever it relays.
func (m *Member) Vouch(c *origin.Conn) bool {
	t := m.Health.relay.trust()
	if t != nil {
		c.Trust = t
	}
	return t != nil
}

// TakesAgain reports whether a connection on which something was relayed in absolute form can
// carry another exchange: the upstream has not named itself tinyproxy, and has vouched for the
// connection where that was needed.
func (m *Member) TakesAgain(c *origin.Conn) bool {
	return !m.Health.relay.single.Load() && m.Trusts(c)
}

// Trusts reports whether what a connection was given back on the strength of holds still.
func (m *Member) Trusts(c *origin.Conn) bool {
	return c.Trust == nil || c.Trust == m.Health.relay.trust()
}
