//go:build !unix

package h1

import "syscall"

// socket cannot be looked at without reading on this platform; a connection that
// has died shows at its next use, where the retry rules apply.
type socket struct{}

func newSocket(syscall.RawConn) *socket { return nil }

func (*socket) quiet() bool { return true }
