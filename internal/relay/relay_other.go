//go:build !linux

package relay

import (
	"net"
	"os"
	"syscall"
)

// Only Linux has splice(2), and only there the relay waits for a socket
// without a buffer. Elsewhere every direction is the portable copy.

type tcpPump struct{}

func (*tcpPump) init(*pump, syscall.RawConn, syscall.RawConn) {}

// rawTCP is of no use here.
func rawTCP(Stream) syscall.RawConn { return nil }

func (*tcpPump) canSplice() bool { return false }

func (*tcpPump) copy() (rerr, werr error) { return nil, nil }

// watched is of no use here.
func watched(Stream) *net.TCPConn { return nil }

// broken is not known here.
func broken(*net.TCPConn) (failed, closed bool) { return false, false }

// errHiddenReset is a reset that a read reported as the end of the stream.
var errHiddenReset = os.NewSyscallError("read", syscall.ECONNRESET)

// eofHidesReset is not known here.
func eofHidesReset(Stream) bool { return false }
