package descriptors

import (
	"errors"
	"os"
	"syscall"

	"github.com/caddy-egress/egress/internal/connpool"
)

// IdleShare is the part of the process's file descriptors that idle connections
// may have: a quarter.
const IdleShare = 4

// Idle bounds the idle connections of all pools of the process.
var Idle = connpool.NewBudget(Limit() / IdleShare)

// ReclaimBatch is how many idle connections are closed when a dial finds no
// descriptor: more than its own few, because it will not be the only one.
const ReclaimBatch = 16

// MakeRoom closes idle connections where a dial has failed for want of a descriptor,
// and reports whether it is worth trying again.
func MakeRoom(err error) bool {
	return Out(err) && Idle.Reclaim(ReclaimBatch) > 0
}

// ReserveShare is the part of the process's file descriptors that dials leave free, a
// sixteenth: clients must be accepted to be told that there is no connection for them.
const ReserveShare = 16

// dialable is the first descriptor that is not for dials, 0 where there is no limit.
var dialable = uintptr(Limit() - Limit()/ReserveShare)

// KeepReserve refuses a socket for a dial that would take of the reserve. A new
// descriptor is the lowest that is free, so its number tells how many are taken.
func KeepReserve(_, _ string, c syscall.RawConn) error {
	reserved := false
	err := c.Control(func(fd uintptr) { reserved = dialable > 0 && fd >= dialable })
	if err == nil && reserved {
		err = os.NewSyscallError("socket", syscall.EMFILE)
	}
	return err
}

// Out reports whether an error is a lack of file descriptors.
func Out(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
