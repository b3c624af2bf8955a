//go:build unix

package descriptors

import (
	"math"
	"syscall"
)

// Limit returns how many file descriptors the process may have, 0 if
// that is not known. Go raises the soft limit to the hard one before this runs.
func Limit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), math.MaxInt32)) //nolint:unconvert // without a limit it is a huge number; it is signed on FreeBSD
}
