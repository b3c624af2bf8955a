package self

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// LeadsHere reports whether the kernel routes an address to this machine itself. Where
// it does not tell, the answer is no.
func LeadsHere(a netip.Addr) bool {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	// The kernel answers before Sendto returns; the timeout is for the unexpected.
	timeout := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout) != nil ||
		unix.Sendto(fd, routeQuestion(a), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return false
	}
	var answer [4096]byte
	n, _, err := unix.Recvfrom(fd, answer[:], 0)
	return err == nil && n >= unix.SizeofNlMsghdr+unix.SizeofRtMsg &&
		binary.NativeEndian.Uint16(answer[4:]) == unix.RTM_NEWROUTE &&
		answer[unix.SizeofNlMsghdr+7] == unix.RTN_LOCAL // rtm_type
}

// routeQuestion asks for the route to an address (rtnetlink(7)).
func routeQuestion(a netip.Addr) []byte {
	family := byte(unix.AF_INET6)
	if a.Is4() {
		family = unix.AF_INET
	}
	const attribute = 4 // its header
	size := unix.SizeofNlMsghdr + unix.SizeofRtMsg + attribute + a.BitLen()/8
	msg := make([]byte, unix.SizeofNlMsghdr, size)
	binary.NativeEndian.PutUint32(msg, uint32(size))
	binary.NativeEndian.PutUint16(msg[4:], unix.RTM_GETROUTE)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST)
	msg = append(msg, family, byte(a.BitLen()), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	msg = binary.NativeEndian.AppendUint16(msg, uint16(attribute+a.BitLen()/8))
	msg = binary.NativeEndian.AppendUint16(msg, unix.RTA_DST)
	return append(msg, a.AsSlice()...)
}
