//go:build !linux

package layers

import "net"

// unsentTCP cannot tell here.
func unsentTCP(*net.TCPConn) (n int, ok bool) { return 0, false }
