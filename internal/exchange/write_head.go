package exchange

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/retry"
)

// This file contains how the head of a request is written, to a peer that may not have read
// what came before it.

// writeHead writes the head of a request. Nearly always the connection takes it at once.
// Where the peer has to be waited for, or that cannot be known, it has the time that it has
// to answer, and the client is watched.
func (t *Exchange) writeHead(c *h1.Conn, head []byte, w *watch) error {
	n, err := c.WriteAtOnce(head)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.start()
		var more int
		more, err = writeBy(c, head[n:], t.headDeadline(time.Now()))
		n += more
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return failure.HeadTimeout.Because(fmt.Errorf("%w, and the head of the request could not be written: %w", failure.ErrSilent, err))
	}
	return &retry.StaleError{Written: n > 0, Err: err}
}

// writeBy is Write with a deadline, which is taken away where all was written.
func writeBy(c *h1.Conn, p []byte, deadline time.Time) (int, error) {
	if err := c.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	n, err := c.Write(p)
	if err == nil {
		err = c.SetWriteDeadline(time.Time{})
	}
	return n, err
}

// littleUnread is how much of an upload may wait to be acknowledged when its answer has been
// relayed: the last bytes may have crossed the answer.
const littleUnread = 4 << 10

// isUnread reports whether the peer has answered an upload that its system has yet to take:
// the head of a next request would stand behind it. Of a tunnel over HTTP/2 that cannot be
// told, since windows are given back late.
func (u *upload) isUnread() bool {
	if u == nil || u.sent.Load() <= littleUnread {
		return false
	}
	tcp := layers.TCP(u.conn.NetConn())
	if tcp == nil {
		return false
	}
	n, ok := layers.Unsent(tcp)
	return ok && n > littleUnread
}
