package self

import (
	"net"

	"github.com/caddy-egress/egress/internal/listening"
)

// fake is a check for a process that has the given listeners, each as
// "network/address", on a machine with the given interface addresses.
func fake(listeners, interfaces []string, admin ...HostPort) *Check {
	return New(Config{
		Admin: admin,
		Usage: func(network, addr string) int {
			for _, l := range listeners {
				if l == network+"/"+addr {
					return 1
				}
			}
			return 0
		},
		Active:  noConfig,
		Sockets: func() ([]listening.Socket, bool) { return nil, false },
		Interfaces: func() ([]net.Addr, error) {
			var addrs []net.Addr
			for _, cidr := range interfaces {
				ip, ipNet, err := net.ParseCIDR(cidr)
				if err != nil {
					return nil, err
				}
				addrs = append(addrs, &net.IPNet{IP: ip, Mask: ipNet.Mask})
			}
			return addrs, nil
		},
	})
}
