package self

import (
	"fmt"
	"net"
	"strconv"
)

// ParseHostPort reads an address of the form host:port; the host may be empty.
func ParseHostPort(s string) (HostPort, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return HostPort{}, fmt.Errorf("not of the form host:port: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return HostPort{}, fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	return HostPort{Host: host, Port: uint16(n)}, nil
}
