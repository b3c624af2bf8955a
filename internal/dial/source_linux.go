package dial

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caddy-egress/egress/internal/descriptors"
)

// control sets what must be set before a socket is bound: that the port is left
// open until the destination is known, so that one local address has as many
// connections as there are ports to each destination and not to all of them
// together; and the interface.
func (s Source) control(network, address string, c syscall.RawConn) error {
	if err := descriptors.KeepReserve(network, address, c); err != nil {
		return err
	}
	var err, deviceErr error
	ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if errors.Is(err, unix.ENOPROTOOPT) {
			err = nil // Linux before 4.2
		}
		if err == nil && s.device != "" {
			deviceErr = unix.BindToDevice(int(fd), s.device)
		}
	})
	if ctlErr != nil {
		return ctlErr
	}
	if err == nil {
		return os.NewSyscallError(bindToDevice, deviceErr)
	}
	return os.NewSyscallError("setsockopt", err)
}

// canBindToInterface reports whether this system has SO_BINDTODEVICE.
const canBindToInterface = true
