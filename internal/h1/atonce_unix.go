//go:build unix

package h1

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// atOnce is what a write without waiting needs, which is allocated once.
type atOnce struct {
	call func(fd uintptr) bool
	p    []byte
	n    int // of p, written
	err  error
}

// WriteAtOnce implements AtOnceWriter.
func (s *socket) WriteAtOnce(p []byte) (int, error) {
	o := &s.out
	o.p, o.n, o.err = p, 0, nil
	err := s.raw.Write(o.call)
	o.p = nil
	switch {
	case err != nil:
		return o.n, err
	case o.err == unix.EAGAIN:
		return o.n, os.ErrDeadlineExceeded
	case o.err != nil:
		return o.n, &net.OpError{Op: "write", Net: s.nc.RemoteAddr().Network(), Source: s.nc.LocalAddr(), Addr: s.nc.RemoteAddr(), Err: os.NewSyscallError("write", o.err)}
	}
	return o.n, nil
}

// write is called once: it never asks to be called when the socket takes more.
func (o *atOnce) write(fd uintptr) (done bool) {
	for o.n < len(o.p) {
		n, err := unix.Write(int(fd), o.p[o.n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			o.err = err
			return true
		}
		o.n += n
	}
	return true
}

// Interface guards
var (
	_ AtOnceWriter = (*socket)(nil)
)
