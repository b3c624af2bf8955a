package egress

import (
	"time"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains how a tunnel over HTTP/2 ends whose client does not read its
// connection any more.
//
// What ends a stream of HTTP/2, a reset, stands in line behind the frame that is being
// written. Where the client's socket takes nothing, it is never sent, and the write never
// returns. So if nothing has moved on the connection for a while after that, the
// connection is closed: none of its other streams can go on either.

// stuckTime is for how long nothing may move.
const stuckTime = 5 * time.Second

// stuckWrite is a write to a client that should have ended.
type stuckWrite struct {
	stream *clientStream
	conn   relay.Stream
	acked  uint64 // what the client's system had at the last look
}

// watchStuck sees to it that the write that is under way ends.
func (s *clientStream) watchStuck() {
	conn := origin.ClientOf(s.r.Context())
	if conn == nil || s.r.ProtoMajor != 2 {
		return
	}
	w := &stuckWrite{stream: s, conn: relay.StreamOf(layers.Innermost(conn))}
	w.acked, _ = layers.Acked(w.conn)
	time.AfterFunc(stuckTime, w.look)
}

func (w *stuckWrite) look() {
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	if !w.stream.writing {
		return
	}
	if acked, ok := layers.Acked(w.conn); ok && acked != w.acked {
		w.acked = acked
		time.AfterFunc(stuckTime, w.look)
		return
	}
	layers.Abort(w.conn)
}
