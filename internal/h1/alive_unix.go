//go:build unix

package h1

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket is read without waiting. What a look needs is allocated once.
type socket struct {
	nc   net.Conn
	raw  syscall.RawConn
	look func(fd uintptr)
	fds  [1]unix.PollFd
	calm bool
	out  atOnce
}

func newSocket(nc net.Conn, raw syscall.RawConn) *socket {
	s := &socket{nc: nc, raw: raw}
	s.look = s.poll
	s.out.call = s.out.write
	return s
}

// ReadAtHand implements AtHandReader.
func (s *socket) ReadAtHand(p []byte) (int, error) {
	if s.quiet() {
		return 0, os.ErrDeadlineExceeded
	}
	clearReadDeadline(s.nc)
	return s.nc.Read(p)
}

// quiet reports whether the socket is open and there is nothing to be read, an
// end or an error included. It takes nothing from it. Control is used instead of
// Read because Read honours deadlines, and an idle connection may carry an
// expired one.
func (s *socket) quiet() bool {
	s.calm = false
	return s.raw.Control(s.look) == nil && s.calm
}

func (s *socket) poll(fd uintptr) {
	s.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	for {
		n, err := unix.Poll(s.fds[:], 0)
		if err != unix.EINTR {
			s.calm = n == 0 && err == nil
			return
		}
	}
}
