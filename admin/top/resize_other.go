//go:build !unix

package top

import "os"

// notifyResize does nothing: each refresh looks at the size.
func notifyResize(chan<- os.Signal) {}
