package egress

import (
	"net"
	"net/http"
	"net/netip"

	"github.com/caddy-egress/egress/internal/proxydial"
)

// clientAddrs are the addresses that a PROXY protocol header tells: that of the client
// as Caddy's {client_ip} has it, with a port where that is also who has connected, and
// the one that it has connected to, where both are of one family.
func (t *request) clientAddrs() proxydial.Client {
	var c proxydial.Client
	addr, ok := t.clientAddr()
	if !ok {
		return c
	}
	c.Source = parseAddrPort(t.r.RemoteAddr)
	if c.Source.Addr() != addr {
		c.Source = netip.AddrPortFrom(addr, 0)
	}
	if local, _ := t.r.Context().Value(http.LocalAddrContextKey).(net.Addr); local != nil {
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

// clientAddr is Caddy's {client_ip}.
func (t *request) clientAddr() (netip.Addr, bool) {
	ip := t.client.IP()
	if ip == "" {
		ip, _, _ = net.SplitHostPort(t.r.RemoteAddr)
	}
	addr, err := netip.ParseAddr(ip)
	return addr.Unmap().WithZone(""), err == nil
}
