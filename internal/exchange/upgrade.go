package exchange

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the switch to another protocol (RFC 9110 §7.8), such as WebSocket: what
// the client asks for goes on to the origin, whose 101 makes a tunnel of the connection. Any
// other answer is that of an exchange.

// upgrade is the switch that a request asks for.
type upgrade struct {
	protocols string      // those to choose from, as Upgrade lists them
	tunnel    core.Tunnel // stands when the origin has switched
	switched  bool        // the current attempt has brought a 101
}

// maxProtocols is how many protocols an Upgrade may list that is heeded.
const maxProtocols = 16

// asksUpgrade finds the protocols that the client wants to switch to. Not among them is
// another version of HTTP: what is proxied would no longer be exchanges.
func asksUpgrade(r *http.Request) string {
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.Header["Upgrade"] == nil || !names(r.Header["Connection"], "upgrade") {
		return ""
	}
	var wanted []string
	n := 0
	for protocol := range protocolsOf(r.Header["Upgrade"]) {
		name, version, versioned := strings.Cut(protocol, "/")
		switch n++; {
		case n > maxProtocols, !plaintext.IsToken(name), versioned && !plaintext.IsToken(version):
			return "" // it is not clear what is wanted
		case strings.EqualFold(name, "h2c"), strings.EqualFold(name, "HTTP"):
		default:
			wanted = append(wanted, protocol)
		}
	}
	return strings.Join(wanted, ", ")
}

// protocolsOf are the elements of Upgrade fields.
func protocolsOf(values []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, value := range values {
			for protocol := range strings.SplitSeq(value, ",") {
				if protocol = strings.Trim(protocol, " \t"); protocol != "" && !yield(protocol) {
					return
				}
			}
		}
	}
}

// names reports whether one of the values of a list field has a token.
func names(values []string, token string) bool {
	for _, v := range values {
		if h1.HasToken(v, token) {
			return true
		}
	}
	return false
}

// Switched is the tunnel that the exchange has become, whose client is yet to be told; nil
// where it has not.
func (t *Exchange) Switched() *core.Tunnel {
	if t.upgrade == nil || !t.upgrade.tunnel.Stands() {
		return nil
	}
	return &t.upgrade.tunnel
}

// forwardUpgrade is an attempt of a request that asks for a switch. Through an upstream it
// has a place for a tunnel.
func (t *Exchange) forwardUpgrade(send func() error) error {
	done, err := t.upgrade.tunnel.Through()
	if err != nil {
		return err
	}
	defer done()
	return send()
}

// checkSwitch refuses a 101 that nobody has asked for (RFC 9110 §15.2.2), or with which
// nobody can know what follows.
func (t *Exchange) checkSwitch(hd *h1.Head) error {
	if t.upgrade == nil {
		return &h1.ProtocolError{Reason: "101 without an upgrade that was asked for"}
	}
	n := 0
	for i := range hd.Fields {
		if hd.Fields[i].Name != "Upgrade" {
			continue
		}
		for protocol := range protocolsOf([]string{hd.Fields[i].Value}) {
			if n++; n > maxProtocols || !h1.HasToken(t.upgrade.protocols, protocol) {
				return &h1.ProtocolError{Reason: fmt.Sprintf("101 to %.40q, which was not asked for", protocol)}
			}
		}
	}
	if n == 0 {
		return &h1.ProtocolError{Reason: "101 without Upgrade (RFC 9110 section 15.2.2)"}
	}
	return nil
}

// prepareSwitch makes the header of the 101 ready for the client.
func (t *Exchange) prepareSwitch(hd *h1.Head) {
	header := t.Writer.Header()
	delete(header, "Server")
	delete(header, "Alt-Svc")
	var via []h1.Field
	if !t.Proxy.HideVia {
		via = []h1.Field{{Name: "Via", Value: t.Proxy.Via.Response[hd.Minor]}}
	}
	t.setFields(header, hd, via)
	delete(header, "Proxy-Support") // see offerSessionAuth
	t.changeResponse(header)
	setUpgrade(header, hd)
	t.upgrade.switched = true
}

// setUpgrade tells the client what the origin says of other protocols.
func setUpgrade(header http.Header, hd *h1.Head) {
	var protocols []string
	for i := range hd.Fields {
		if hd.Fields[i].Name == "Upgrade" {
			protocols = append(protocols, hd.Fields[i].Value)
		}
	}
	if protocols != nil {
		header["Upgrade"], header["Connection"] = protocols, []string{"Upgrade"}
	}
}

// SwitchHead is the head of the 101 for the client.
func (t *Exchange) SwitchHead() []byte {
	var b strings.Builder
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = t.Writer.Header().Write(&b)
	b.WriteString("\r\n")
	return []byte(b.String())
}

// finishSwitch ends an attempt that has brought a 101.
func (t *Exchange) finishSwitch(l *origin.Lease, undisturbed bool) error {
	c := l.Conn()
	defer c.End()
	if !undisturbed {
		l.Discard()
		return t.notSwitched()
	}
	err := t.upgrade.tunnel.Switch(l)
	if err != nil {
		t.forgetSwitch()
	}
	return err
}

// endUpgrade gives back what a switch would have taken that has not come.
func (t *Exchange) endUpgrade() {
	if t.upgrade != nil && t.Switched() == nil {
		t.upgrade.tunnel.Close()
	}
}

// notSwitched ends an attempt that has brought a 101, and of which nothing can become: the
// client has left, or its request was not out when the origin has switched.
func (t *Exchange) notSwitched() error {
	t.forgetSwitch()
	if err := t.HTTP.Context().Err(); err != nil {
		return failure.Canceled.Because(err)
	}
	return &h1.ProtocolError{Reason: "101 before the end of the request"}
}

// forgetSwitch takes back what prepareSwitch has done.
func (t *Exchange) forgetSwitch() {
	clear(t.Writer.Header())
	t.upgrade.switched = false
}
