package layers

import (
	"net"

	"golang.org/x/sys/unix"
)

func unsentTCP(c *net.TCPConn) (n int, ok bool) {
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
