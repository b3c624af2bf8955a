//go:build unix

package h1

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

var errTimeout = os.ErrDeadlineExceeded

// socketQuiet reports whether the socket is open with nothing to read. Control
// is used instead of Read because Read honours deadlines, and an idle
// connection may carry an expired one.
func socketQuiet(raw syscall.RawConn) bool {
	quiet := false
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		for {
			_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			quiet = err == unix.EAGAIN || err == unix.EWOULDBLOCK
			return
		}
	})
	return err == nil && quiet
}
