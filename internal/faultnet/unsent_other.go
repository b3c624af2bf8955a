//go:build !linux

package faultnet

import "net"

// unsent cannot be told here, so that a reset may take bytes with it.
func unsent(*net.TCPConn) int { return 0 }
