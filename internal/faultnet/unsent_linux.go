package faultnet

import (
	"net"

	"golang.org/x/sys/unix"
)

// unsent is how many bytes that were written to a socket its peer has not
// acknowledged yet; 0 if that cannot be told.
func unsent(c *net.TCPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if v, err := unix.IoctlGetInt(int(fd), unix.TIOCOUTQ); err == nil {
			n = v
		}
	})
	return n
}
