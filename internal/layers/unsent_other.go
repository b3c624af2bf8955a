//go:build !linux

package layers

import "net"

// Unsent cannot be told here.
func Unsent(*net.TCPConn) (n int, ok bool) { return 0, false }
