package relay

import (
	"crypto/tls"
	"net"

	"github.com/caddy-egress/egress/internal/layers"
)

// StreamOf makes a connection a side of a tunnel. One that cannot half-close
// ends both directions instead, when its peer's side has ended.
func StreamOf(c net.Conn) Stream {
	switch s := c.(type) {
	case *tls.Conn:
		return tlsStream{s}
	case Stream:
		return s
	}
	return CloseOnly{c}
}

// tlsStream is a TLS connection. It leads a relay to the socket, also where that is
// wrapped.
type tlsStream struct{ *tls.Conn }

// NetConn returns what TLS runs on, without its wrappers.
func (s tlsStream) NetConn() net.Conn { return layers.Innermost(s.Conn.NetConn()) }

// CloseOnly is a connection of a type that is not known: of a listener wrapper that
// hides what it wraps.
type CloseOnly struct{ net.Conn }

func (c CloseOnly) CloseWrite() error { return c.Close() }

// NetConn returns the connection, which may be one that can be reset.
func (c CloseOnly) NetConn() net.Conn { return c.Conn }

// Interface guards
var (
	_ Stream = (*net.TCPConn)(nil)
	_ Stream = (*net.UnixConn)(nil)
	_ Stream = tlsStream{}
)
