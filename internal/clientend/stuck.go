package clientend

import (
	"time"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/origin"
	"github.com/caddy-egress/egress/internal/relay"
)

// stuckTime is for how long nothing may move: others may have tunnels and exchanges on the
// same connection.
const stuckTime = 15 * time.Second

// stuckWrite is a write to a client that should have ended.
type stuckWrite struct {
	stream *Stream
	conn   relay.Stream
	acked  uint64 // what the client's system had at the last look
}

// watchStuck sees to it that the write that is under way ends.
func (s *Stream) watchStuck() {
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
