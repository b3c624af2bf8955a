//go:build !unix

package h1

import (
	"os"
	"syscall"
)

var errTimeout = os.ErrDeadlineExceeded

// socketQuiet cannot look at a socket without reading on this platform; a
// connection that has died shows at its next use, where the retry rules apply.
func socketQuiet(syscall.RawConn) bool { return true }
