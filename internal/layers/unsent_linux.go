package layers

import (
	"net"

	"golang.org/x/sys/unix"
)

// Unsent is how many bytes that were written to a socket its peer has not acknowledged
// yet. ok is false where that cannot be told.
func Unsent(c *net.TCPConn) (n int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		var ioctl error
		n, ioctl = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
		ok = ioctl == nil
	})
	return n, ok && err == nil
}
