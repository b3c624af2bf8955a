package core

import "github.com/caddy-egress/egress/internal/upstream"

// TellsOfClients reports whether there is an element of ours in the Forwarded field.
func (p *Proxy) TellsOfClients() bool { return p.Forwarded == "for" || p.Forwarded == "full" }

// AppendForwarded appends our element of the Forwarded field (RFC 7239). What is spoken in
// a tunnel is not known, so it has no protocol.
func (t *Request) AppendForwarded(b []byte) []byte {
	b = t.appendClient(append(b, "for="...))
	if t.Proxy.Forwarded != "full" {
		return b
	}
	switch {
	case t.Use == upstream.Tunnel:
		b = t.AppendAuthority(append(b, ";host=\""...))
		return append(b, '"')
	case t.HTTPS:
		b = append(b, ";proto=https"...)
	default:
		b = append(b, ";proto=http"...)
	}
	b = t.AppendHost(append(b, ";host=\""...))
	return append(b, '"')
}

// appendClient appends the node identifier of the client (RFC 7239 §6): an IPv6
// address in brackets and quotes, and `unknown` where it is to be hidden or is
// no address.
func (t *Request) appendClient(b []byte) []byte {
	addr, ok := t.ClientAddr()
	switch {
	case t.Proxy.HideIP || !ok:
		return append(b, "unknown"...)
	case addr.Is4():
		return addr.AppendTo(b)
	default:
		b = append(b, '"', '[')
		b = addr.AppendTo(b)
		return append(b, ']', '"')
	}
}
