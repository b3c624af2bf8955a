//go:build !unix

package h1

import "syscall"

// lookAt cannot look at a socket without reading on this platform; a connection
// that has died shows at its next use, where the retry rules apply.
func lookAt(syscall.RawConn) socketState { return socketQuiet }
