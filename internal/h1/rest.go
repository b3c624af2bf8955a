package h1

import (
	"net"
	"time"
)

// Detach ends the use of the connection for HTTP/1.1, within an exchange: it is what a 101
// has made of it. It returns what is below, without deadlines, and the bytes that have come
// behind the head.
func (c *Conn) Detach() (net.Conn, []byte, error) {
	nc, rest := c.nc, c.Rest()
	if e, ok := nc.(*earlyConn); ok {
		nc, rest = e.Conn, append(rest, e.early...)
	}
	return nc, rest, nc.SetDeadline(time.Time{})
}

// Rest returns a copy of the bytes that came behind what has been read, and nil
// where there are none. They belong to what the connection has become, such as a
// tunnel behind the 2xx to CONNECT.
func (c *Conn) Rest() []byte {
	if c.r == c.w {
		return nil
	}
	rest := append([]byte(nil), c.buf[c.r:c.w]...)
	c.r = c.w
	return rest
}
