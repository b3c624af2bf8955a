package h1

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
