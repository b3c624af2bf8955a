package proxydial

import (
	"fmt"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// This file contains what is sent on an HTTP/2 connection.

// headerBuffer collects an encoded header block.
type headerBuffer struct{ b []byte }

func (h *headerBuffer) Write(p []byte) (int, error) {
	h.b = append(h.b, p...)
	return len(p), nil
}

var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, outLimit/4); return &b }}

// outWriter is where the Framer writes to, with c.mu held.
type outWriter h2Conn

// appendRaw puts bytes into out and wakes the writer. It is called with c.mu held.
func (c *h2Conn) appendRaw(p []byte) {
	if c.out == nil {
		c.out = *outBuffers.Get().(*[]byte)
	}
	c.out = append(c.out, p...)
	c.control += len(p)
	c.writable.Signal()
}

// writeLoop moves out to the socket. It is the one that closes it.
func (c *h2Conn) writeLoop() {
	defer c.nc.Close()
	for {
		b, ping, ok := c.nextOut()
		if !ok {
			return
		}
		err := c.send(b)
		if ping {
			c.pingLeft()
		}
		b = b[:0]
		if cap(b) <= outLimit+controlLimit {
			outBuffers.Put(&b)
		}
		if err != nil {
			c.fail(fmt.Errorf("write: %w", err))
			return
		}
	}
}

// recordSize is how many bytes are handed to the socket at once: with TLS, a record.
const recordSize = 16 << 10

// send writes b, and counts what the socket has taken.
func (c *h2Conn) send(b []byte) error {
	for len(b) > 0 {
		n, err := c.nc.Write(b[:min(len(b), recordSize)])
		if err != nil {
			return err
		}
		c.writes.Add(1)
		b = b[n:]
	}
	return nil
}

// nextOut waits for bytes to be sent and takes them. It reports whether a PING is among
// them.
func (c *h2Conn) nextOut() (b []byte, ping, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) == 0 && c.err == nil && !c.flushed {
		c.writable.Wait()
	}
	if len(c.out) == 0 || c.err != nil {
		return nil, false, false
	}
	b, ping = c.out, c.pingOut
	c.out, c.control, c.pingOut = nil, 0, false
	c.wakeWriters()
	return b, ping, true
}

// wakeWriters wakes the tunnels that wait for room or for the window of the
// connection. It is called with c.mu held.
func (c *h2Conn) wakeWriters() {
	for _, s := range c.streams {
		if s.writers > 0 {
			s.sendable.Broadcast()
		}
	}
}

// writeHeaders sends the fields of a CONNECT (RFC 9113 §8.5).
func (c *h2Conn) writeHeaders(id uint32, req request) {
	c.hbuf.b = c.hbuf.b[:0]
	_ = c.henc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
	_ = c.henc.WriteField(hpack.HeaderField{Name: ":authority", Value: req.authority})
	for _, f := range c.pool.fields {
		_ = c.henc.WriteField(f)
	}
	for _, f := range req.header {
		_ = c.henc.WriteField(hpack.HeaderField{Name: strings.ToLower(f.Name), Value: f.Value})
	}
	control := c.control
	block, first := c.hbuf.b, true
	for first || len(block) > 0 {
		part := block[:min(len(block), c.peerFrame)]
		block = block[len(part):]
		if first {
			_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: part, EndHeaders: len(block) == 0})
		} else {
			_ = c.framer.WriteContinuation(id, len(block) == 0, part)
		}
		first = false
	}
	c.control = control // asked for by us, not by the peer
}
