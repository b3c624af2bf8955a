//go:build !linux

package egress

import "syscall"

// control has nothing to set here.
func (s source) control(network, address string, c syscall.RawConn) error {
	return keepReserve(network, address, c)
}

// canBindToInterface reports whether this system has SO_BINDTODEVICE.
const canBindToInterface = false
