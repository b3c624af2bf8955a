//go:build !linux

package listening

// Scan is Sockets, whether they are hidden or not. It is not to be had here.
func Scan() (list []Socket, ok bool) { return nil, false }
