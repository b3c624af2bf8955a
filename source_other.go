//go:build !linux

package egress

import "syscall"

// control has nothing to set here.
func (s source) control(_, _ string, _ syscall.RawConn) error { return nil }

// canBindToInterface reports whether this system has SO_BINDTODEVICE.
const canBindToInterface = false
