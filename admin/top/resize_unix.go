//go:build unix

package top

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyResize asks to be told when the size of the terminal changes.
func notifyResize(c chan<- os.Signal) { signal.Notify(c, syscall.SIGWINCH) }
