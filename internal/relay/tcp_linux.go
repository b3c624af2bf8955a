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
	var state byte
	err = raw.Control(func(fd uintptr) {
		// The state is the first byte of struct tcp_info; the kernel cuts
		// the answer to the size asked for.
		v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			var b [4]byte
			binary.NativeEndian.PutUint32(b[:], uint32(v))
			state = b[0]
		}
	})
	if err != nil || state != tcpClose {
		return false
	}
	// With Multipath TCP the answer is about the first subflow, which may end
	// before the connection does.
	mptcp, err := c.MultipathTCP()
	return err == nil && !mptcp
}
