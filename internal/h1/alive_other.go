//go:build !unix

package h1

import (
	"net"
	"syscall"
	"time"
)

// lookTime is how long a look takes where there is nothing to be seen. A deadline
// that is shorter may be over before the read has begun.
const lookTime = 2 * time.Millisecond

// socket is read with a short deadline, since a socket cannot be asked on this
// platform.
type socket struct{ nc net.Conn }

func newSocket(nc net.Conn, _ syscall.RawConn) *socket { return &socket{nc} }

// ReadAtHand implements AtHandReader.
func (s *socket) ReadAtHand(p []byte) (int, error) {
	if err := s.nc.SetReadDeadline(time.Now().Add(lookTime)); err != nil {
		return 0, err
	}
	defer clearReadDeadline(s.nc)
	return s.nc.Read(p)
}
