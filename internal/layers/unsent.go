package layers

import "net"

// unsender is a connection that is no socket, such as a stream of HTTP/2, and knows
// itself what Unsent asks for.
type unsender interface{ Unsent() int }

// Unsent is how many bytes that were written to the socket that c is, or runs on, its
// peer has not acknowledged yet; of a stream of HTTP/2, how many the peer has not given
// back to its window. ok is false where that cannot be told.
func Unsent(c any) (n int, ok bool) {
	for c != nil {
		switch s := c.(type) {
		case unsender:
			return s.Unsent(), true
		case *net.TCPConn:
			return unsentTCP(s)
		}
		next := below(c)
		if next == nil {
			return 0, false
		}
		c = next
	}
	return 0, false
}
