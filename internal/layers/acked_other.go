//go:build !linux

package layers

import "net"

// ackedTCP cannot tell here.
func ackedTCP(*net.TCPConn) (n uint64, ok bool) { return 0, false }

func keepUnsentLow(*net.TCPConn, int) {}
