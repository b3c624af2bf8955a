package egress

import (
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// scanSockets asks the kernel what the listening sockets of this process are bound to.
// It is nil if that cannot be had. A descriptor that is closed or used anew meanwhile
// does no harm: it is only asked.
func scanSockets() *socketList {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil
	}
	defer dir.Close()
	list := newSocketList()
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if fd, err := strconv.Atoi(name); err == nil {
				list.addDescriptor(fd)
			}
		}
		if err != nil || len(names) == 0 {
			return list
		}
	}
}

// addDescriptor adds a descriptor if it is a listening socket.
func (l *socketList) addDescriptor(fd int) {
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening == 0 {
		return
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		l.add(netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), false)
	case *unix.SockaddrInet6:
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		l.add(netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), err != nil || only == 0)
	case *unix.SockaddrUnix:
		if a.Name != "" {
			l.unix = append(l.unix, a.Name)
		}
	}
}
