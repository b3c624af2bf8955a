package exchange

import (
	"errors"
	"time"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/origin"
)

// This file contains what happens while an origin is silent within a response. Its client
// may have gone: net/http notices that only as long as an HTTP/1.1 client has sent nothing
// behind its request, so the socket is looked at. And the silence has an end.

// clientLook is after how much silence of the origin, and how often from then on, it is
// looked whether the client is still there.
const clientLook = 10 * time.Second

var (
	errGone    = errors.New("the client has closed its connection")
	errStopped = errors.New("no byte of the response for too long")
)

// progress is how far an upload had come, and since when.
type progress struct {
	sent int64
	at   time.Time
}

// listen has the silences of the origin bounded from here on.
func (t *Exchange) listen(c *h1.Conn) {
	interval := clientLook
	if idle := t.Config.BodyIdle; idle > 0 {
		interval = min(interval, idle)
	}
	c.Listen(interval, t)
}

// Silent implements h1.Listener. An origin that is sent a body may be waiting for that.
func (t *Exchange) Silent(silent time.Duration) error {
	if t.HTTP.ProtoMajor == 1 {
		if conn := origin.ClientOf(t.HTTP.Context()); conn != nil && layers.HungUp(layers.Innermost(conn)) {
			return failure.Canceled.Because(errGone)
		}
	}
	if up := t.upload; up != nil {
		if sent := up.sent.Load(); sent != t.seen.sent {
			t.seen = progress{sent, time.Now()}
		}
		silent = min(silent, time.Since(t.seen.at))
	}
	if idle := t.Config.BodyIdle; idle > 0 && silent >= idle {
		return failure.Stopped.Because(errStopped)
	}
	return nil
}

// Interface guards
var _ h1.Listener = (*Exchange)(nil)
