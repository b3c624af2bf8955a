package core

import (
	"net"
	"net/http"
	"net/netip"

	"github.com/caddy-egress/egress/internal/proxydial"
)

// clientAddrs are the addresses that a PROXY protocol header tells: that of the client
// as Caddy's {client_ip} has it, with a port where that is also who has connected, and
// the one that it has connected to, where both are of one family.
func (t *Request) clientAddrs() proxydial.Client {
	var c proxydial.Client
	addr, ok := t.ClientAddr()
	if !ok {
		return c
	}
	c.Source = parseAddrPort(t.HTTP.RemoteAddr)
	if c.Source.Addr() != addr {
		c.Source = netip.AddrPortFrom(addr, 0)
	}
	if local, _ := t.HTTP.Context().Value(http.LocalAddrContextKey).(net.Addr); local != nil {
		if to := parseAddrPort(local.String()); to.Addr().Is4() == addr.Is4() {
			c.Destination = to
		}
	}
	return c
}

func parseAddrPort(s string) netip.AddrPort {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// ClientAddr is Caddy's {client_ip}.
func (t *Request) ClientAddr() (netip.Addr, bool) {
	ip := t.Client.IP()
	if ip == "" {
		ip, _, _ = net.SplitHostPort(t.HTTP.RemoteAddr)
	}
	addr, err := netip.ParseAddr(ip)
	return addr.Unmap().WithZone(""), err == nil
}
