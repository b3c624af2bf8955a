package layers

import (
	"net"

	"golang.org/x/sys/unix"
)

func ackedTCP(c *net.TCPConn) (n uint64, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		info, opt := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if ok = opt == nil; ok {
			n = info.Bytes_acked
		}
	})
	return n, ok && err == nil
}

func keepUnsentLow(c *net.TCPConn, bytes int) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
		})
	}
}
