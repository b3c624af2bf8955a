//go:build !linux

package dial

import (
	"syscall"

	"github.com/caddy-egress/egress/internal/descriptors"
)

// control has nothing to set here.
func (s Source) control(network, address string, c syscall.RawConn) error {
	return descriptors.KeepReserve(network, address, c)
}

// canBindToInterface reports whether this system has SO_BINDTODEVICE.
const canBindToInterface = false
