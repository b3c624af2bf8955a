//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/caddy-egress/egress/internal/pattern"
)

// conn reads HTTP/1.1 messages of a simple kind, those that origin and
// generator send each other, from a connection. It is cheap rather than
// complete: what it does not know is an error, and so is counted.
type conn struct {
	net.Conn
	buf  []byte
	r, w int // unread bytes are buf[r:w]
}

// Sizes of buffers: for whole bodies, and for a head and a byte.
const (
	largeBuffer = 128 << 10
	smallBuffer = 4 << 10
)

func newConn(c net.Conn, size int) *conn { return &conn{Conn: c, buf: make([]byte, size)} }

// fill reads once, behind the unread bytes.
func (c *conn) fill() error {
	switch {
	case c.r == c.w:
		c.r, c.w = 0, 0
	case c.w == len(c.buf) && c.r > 0:
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	case c.w == len(c.buf):
		return errors.New("message head is too large")
	}
	n, err := c.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// head is the first line of a message, and its length field.
type head struct {
	line   []byte // valid until the next read
	length int64  // -1 where there is none
	close  bool   // Connection: close
}

var (
	crlf2        = []byte("\r\n\r\n")
	errChunked   = errors.New("message with a Transfer-Encoding")
	errTruncated = errors.New("connection ended within a message")
)

// readHead reads up to the empty line. io.EOF means that there was no message.
func (c *conn) readHead() (head, error) {
	for {
		if i := bytes.Index(c.buf[c.r:c.w], crlf2); i >= 0 {
			text := c.buf[c.r : c.r+i+2]
			c.r += i + len(crlf2)
			return parseHead(text)
		}
		if err := c.fill(); err != nil {
			if errors.Is(err, io.EOF) && c.w > c.r {
				return head{}, errTruncated
			}
			return head{}, err
		}
	}
}

func parseHead(text []byte) (head, error) {
	h := head{length: -1}
	h.line, text, _ = bytes.Cut(text, []byte("\r\n"))
	for len(text) > 0 {
		var field []byte
		field, text, _ = bytes.Cut(text, []byte("\r\n"))
		name, value, _ := bytes.Cut(field, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case isName(name, "content-length"):
			n, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil || n < 0 {
				return h, fmt.Errorf("Content-Length %q", value)
			}
			h.length = n
		case isName(name, "transfer-encoding"):
			return h, errChunked
		case isName(name, "connection"):
			h.close = isName(value, "close")
		}
	}
	return h, nil
}

// isName compares a name with one in lower case.
func isName(name []byte, lower string) bool {
	return len(name) == len(lower) && bytes.EqualFold(name, []byte(lower))
}

// readBody reads n bytes and compares them with what they must be. pace, if not
// nil, is called with the number of bytes of each piece.
func (c *conn) readBody(want *pattern.Body, n int64, pace func(int)) error {
	for n > 0 {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				if errors.Is(err, io.EOF) {
					err = errTruncated
				}
				return err
			}
		}
		piece := c.buf[c.r:min(c.w, c.r+int(min(n, int64(len(c.buf)))))]
		if err := want.Check(piece); err != nil {
			return err
		}
		c.r += len(piece)
		n -= int64(len(piece))
		if pace != nil {
			pace(len(piece))
		}
	}
	return nil
}
