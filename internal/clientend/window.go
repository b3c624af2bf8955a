package clientend

import (
	"net/http"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains how many bytes a client may send ahead over HTTP/2, and for how
// long it may take none.
//
// net/http allows a connection no more than one stream of it: a tunnel whose
// destination does not read takes all, and every other tunnel of the connection
// stands still. So the window of the connection is that of many streams.

// serverConnWindow is what a client may send ahead on a connection, and what it can
// make us buffer there. A stream keeps net/http's own window of 1 MiB: with less, one
// upload over a long way would be slower.
const serverConnWindow = 16 << 20

// WriteTimeout is for how long a client may take nothing that waits to be written
// to it, where the server's own bound is not shorter. net/http waits for ever on a connection
// of HTTP/2, and with it all streams there do, whatever their deadlines. Over HTTP/1, Caddy's
// idle timeout is as long. A client that has become slow needs it: the kernel takes more only
// when a third of its buffer, which can hold megabytes, is empty.
const WriteTimeout = time.Minute

// SetWindows gives HTTP/2 connections of a server their windows and that timeout, unless it
// has been told others. writeIdle is the server's own bound, below 1 for none. Connections
// read them when they begin.
func SetWindows(s *http.Server, writeIdle time.Duration) {
	if s.HTTP2 == nil {
		s.HTTP2 = new(http.HTTP2Config)
	}
	if s.HTTP2.MaxReceiveBufferPerConnection == 0 {
		s.HTTP2.MaxReceiveBufferPerConnection = serverConnWindow
	}
	if s.HTTP2.WriteByteTimeout != 0 {
		return
	}
	s.HTTP2.WriteByteTimeout = WriteTimeout
	if writeIdle > 0 {
		s.HTTP2.WriteByteTimeout = min(WriteTimeout, writeIdle)
	}
}

// clientUnsent is how many bytes for a client on HTTP/2 may wait in its socket to be sent
// for the first time: with more, a client that takes bytes all the time, but few, would seem
// to take none (see WriteTimeout).
const clientUnsent = 64 << 10

// KeepUnsentLow has no more than that wait in the socket of the client of a tunnel.
func KeepUnsentLow(r *http.Request) {
	if conn := origin.ClientOf(r.Context()); conn != nil && r.ProtoMajor == 2 {
		layers.KeepUnsentLow(relay.StreamOf(layers.Innermost(conn)), clientUnsent)
	}
}
