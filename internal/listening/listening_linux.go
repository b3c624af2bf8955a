package listening

import (
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Scan is Sockets, whether they are hidden or not. A descriptor that is closed or used
// anew meanwhile does no harm: it is only asked.
func Scan() (list []Socket, ok bool) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, false
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			fd, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			if s, listens := ask(fd); listens {
				list = append(list, s)
			}
		}
		if err != nil || len(names) == 0 {
			return list, true
		}
	}
}

// ask looks at a descriptor.
func ask(fd int) (s Socket, listens bool) {
	if v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || v == 0 {
		return s, false
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return s, false
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		s.Addr = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		s.Addr = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
		s.Dual = err != nil || only == 0
	case *unix.SockaddrUnix:
		s.Path = a.Name
	}
	return s, true
}
