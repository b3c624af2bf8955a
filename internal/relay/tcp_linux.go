package relay

import (
	"encoding/binary"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caddy-egress/egress/internal/layers"
)

// tcpClose is TCP_CLOSE of <linux/tcp_states.h>.
const tcpClose = 7

// errHiddenReset is a reset that a read reported as the end of the stream.
var errHiddenReset = os.NewSyscallError("read", syscall.ECONNRESET)

// rawTCP returns access to the descriptor of a TCP socket; nil if the stream
// is none. What wraps a socket is not looked into: it may hold bytes back.
func rawTCP(s Stream) syscall.RawConn {
	c, ok := s.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// watched returns the socket of a stream whose end can be seen without a read.
func watched(s Stream) *net.TCPConn { return layers.TCP(s) }

// broken tells whether a connection has failed, such as by a reset, and whether it is
// closed, be it by a reset whose error was reported already or by an end on both sides.
func broken(c *net.TCPConn) (failed, closed bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false, false
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}} // errors are always reported
		n, err := unix.Poll(fds, 0)           // what is interrupted is looked at again
		failed = err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
		closed = tcpState(fd) == tcpClose
	})
	if err != nil {
		return false, false
	}
	return failed, closed && !isMultipath(c)
}

// tcpState is the state of a socket, 0 if it cannot be told.
func tcpState(fd uintptr) byte {
	// The state is the first byte of struct tcp_info; the kernel cuts the answer to
	// the size asked for.
	v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(v))
	return b[0]
}

// isMultipath tells whether a connection uses Multipath TCP, or may: its state is that
// of the first subflow, which may end before the connection does.
func isMultipath(c *net.TCPConn) bool {
	mptcp, err := c.MultipathTCP()
	return err != nil || mptcp
}

// eofHidesReset tells whether a stream whose read returned the end was in fact
// reset. Linux reports ECONNRESET to one system call only: if that was a write
// of the opposite direction, the read sees nothing but an end. A socket that
// received an orderly end, and whose own direction is still open, is in
// CLOSE-WAIT; after a reset it is in CLOSE.
func eofHidesReset(s Stream) bool {
	c := layers.TCP(s)
	if c == nil {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	err = raw.Control(func(fd uintptr) { closed = tcpState(fd) == tcpClose })
	return err == nil && closed && !isMultipath(c)
}
