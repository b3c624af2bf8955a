package layers

import (
	"io"
	"net"
	"time"
)

// layered is a connection that tells what it runs on, as *tls.Conn does.
type layered interface{ NetConn() net.Conn }

// aborter is a connection that can be reset without a socket, such as a stream of
// HTTP/2.
type aborter interface{ Abort() }

// below is the connection that c runs on, or nil.
func below(c any) net.Conn {
	l, ok := c.(layered)
	if !ok {
		return nil
	}
	return l.NetConn()
}

// TCP returns the TCP socket that c is, or runs on, and nil where there is none.
func TCP(c any) *net.TCPConn {
	for {
		if tcp, ok := c.(*net.TCPConn); ok {
			return tcp
		}
		next := below(c)
		if next == nil {
			return nil
		}
		c = next
	}
}

// Abort closes c so that its peer sees a failure and no end. What c runs on is
// closed first, with a reset where it can be reset: to close a layer in order would
// say good-bye (the closure alert of TLS), which makes a cut look like an end.
//
// What cannot be reset (a unix socket, a type that is not known) is closed: below
// TLS, the missing alert tells the peer; without TLS, nothing can.
func Abort(c io.Closer) {
	bottom := c
	for next := below(c); next != nil; next = below(bottom) {
		bottom = next
		if a, ok := bottom.(aborter); ok {
			a.Abort()
			_ = c.Close()
			return
		}
	}
	if l, ok := bottom.(interface{ SetLinger(int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = bottom.Close()
	if bottom != c {
		_ = c.Close()
	}
}

// goodbyeTime is how long Close waits for layers to say good-bye.
const goodbyeTime = 100 * time.Millisecond

// Close closes c in order: its layers say good-bye. TLS takes up to five seconds for that
// where the peer does not read, which may be what the connection is closed for; what c runs on
// is closed long before, and the peer sees a cut.
func Close(c io.Closer) error {
	bottom, resets := c, false
	for {
		if _, resets = bottom.(aborter); resets {
			break // it shares what it runs on
		}
		next := below(bottom)
		if next == nil {
			break
		}
		bottom = next
	}
	if bottom == c {
		return c.Close()
	}
	timer := time.AfterFunc(goodbyeTime, func() {
		if resets {
			bottom.(aborter).Abort()
			return
		}
		_ = bottom.Close()
	})
	defer timer.Stop()
	return c.Close()
}
