package listening

import (
	"net/netip"
	"sync/atomic"
)

// Socket is a listening socket.
type Socket struct {
	// Addr is what a TCP socket is bound to.
	Addr netip.AddrPort
	// Dual is true where IPv4 comes in at an IPv6 socket.
	Dual bool
	// Path is that of a unix socket, which has no Addr.
	Path string
}

var hidden atomic.Bool

// Hide makes Sockets know nothing from here on. It is for tests whose peers listen in
// the process of the proxy that is to reach them.
func Hide() { hidden.Store(true) }

// Sockets lists the listening sockets of this process. ok is false where that is not to
// be had.
func Sockets() (list []Socket, ok bool) {
	if hidden.Load() {
		return nil, false
	}
	return Scan()
}
