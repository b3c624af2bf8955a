package egress

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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

// clientWriteTimeout is for how long a client may take nothing that waits to be written
// to it. net/http waits for ever on a connection of HTTP/2, and with it all streams there
// do, whatever their deadlines. Over HTTP/1, Caddy's idle timeout is as long. A client that
// has become slow needs it: the kernel takes more only when a third of its buffer, which
// can hold megabytes, is empty.
const clientWriteTimeout = time.Minute

// setWindows gives HTTP/2 connections of a server their windows and that timeout, unless
// it has been told others. Connections read them when they begin, behind this hook.
func setWindows(server *caddyhttp.Server) {
	var once sync.Once
	server.RegisterConnContext(func(ctx context.Context, _ net.Conn) context.Context {
		once.Do(func() {
			if s, ok := ctx.Value(http.ServerContextKey).(*http.Server); ok {
				setServerWindows(s)
			}
		})
		return ctx
	})
}

func setServerWindows(s *http.Server) {
	if s.HTTP2 == nil {
		s.HTTP2 = new(http.HTTP2Config)
	}
	setDefault(&s.HTTP2.MaxReceiveBufferPerConnection, serverConnWindow)
	setDefault(&s.HTTP2.WriteByteTimeout, clientWriteTimeout)
}
