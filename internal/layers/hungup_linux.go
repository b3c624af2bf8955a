package layers

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// HungUp reports whether the other end of a connection has closed or reset it, whatever
// it has sent before. It takes nothing from the connection, and reports false where that
// cannot be told.
func HungUp(conn net.Conn) bool {
	for {
		if c, ok := conn.(syscall.Conn); ok {
			raw, err := c.SyscallConn()
			return err == nil && endAtHand(raw)
		}
		if conn = below(conn); conn == nil {
			return false
		}
	}
}

func endAtHand(raw syscall.RawConn) (ended bool) {
	// Control honours no deadlines, and does not wait for the one who reads.
	err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0) // what is interrupted is looked at again
		ended = err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return err == nil && ended
}
