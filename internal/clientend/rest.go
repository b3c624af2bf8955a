package clientend

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains what becomes of the bytes of a client that has gone.

// WatchReset sees to it that the relay ends when the client resets its stream, or closes its
// connection, while nobody reads from it, because what it has sent waits for the origin. A
// client that had ended its direction before has sent all, and that still goes to the
// origin. The returned function is called when the relay has ended.
func (s *Stream) WatchReset(r *relay.Relay) (unwatch func()) {
	looked := make(chan struct{})
	stop := context.AfterFunc(s.r.Context(), func() {
		defer close(looked)
		if s.ended.Load() {
			return // that says nothing of the client, who may go on
		}
		if err := s.readRest(); err != nil {
			r.ClientBroke(err)
		}
	})
	return func() {
		if !stop() {
			<-looked
		}
	}
}

// maxRest is how much a client may have sent that still goes to the origin when it has gone.
const maxRest = 4 << 20

// restTime is how long a client over HTTP/3 that has stopped reading has to end its
// direction.
const restTime = time.Second

// readRest reads what a client has sent that has gone, up to its end. It waits for a read
// that is under way.
func (s *Stream) readRest() error {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.Closed() {
		return nil
	}
	_ = s.rc.SetReadDeadline(time.Now().Add(restTime))
	rest, err := io.ReadAll(io.LimitReader(s.body, maxRest))
	if err == nil && len(rest) == maxRest {
		err = errRest
	}
	s.body = bytes.NewReader(rest)
	return err
}

var errRest = errors.New("the client has gone, and left too much behind")
