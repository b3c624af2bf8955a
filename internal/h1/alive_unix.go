//go:build unix

package h1

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// lookAt looks at a socket without taking anything from it. Control is used
// instead of Read because Read honours deadlines, and an idle connection may
// carry an expired one.
func lookAt(raw syscall.RawConn) socketState {
	state := socketClosed
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		for {
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN || err == unix.EWOULDBLOCK:
				state = socketQuiet
			case err == nil && n > 0:
				state = socketWaiting
			}
			return
		}
	})
	if err != nil {
		return socketClosed
	}
	return state
}
