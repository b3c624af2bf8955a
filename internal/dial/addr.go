package dial

import (
	"net"
	"net/netip"
)

// RemoteAddr is the address that a connection was dialed to.
func RemoteAddr(c net.Conn) netip.Addr {
	a, _ := c.RemoteAddr().(*net.TCPAddr)
	if a == nil {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap()
}
