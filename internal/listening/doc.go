// Package listening tells on what the sockets of this process listen, as the kernel has
// it.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package listening
