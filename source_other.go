//go:build !linux

package egress

import (
	"syscall"

	"github.com/caddy-egress/egress/internal/descriptors"
)

// control has nothing to set here.
func (s source) control(network, address string, c syscall.RawConn) error {
	return descriptors.KeepReserve(network, address, c)
}

// canBindToInterface reports whether this system has SO_BINDTODEVICE.
const canBindToInterface = false
