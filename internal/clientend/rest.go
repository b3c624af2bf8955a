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
	looked, over := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(s.r.Context(), func() {
		defer close(looked)
		if s.ended.Load() { // that says nothing of the client, who may go on
			s.lookAtClient(r, over)
			return
		}
		if err := s.readRest(); err != nil {
			r.ClientBroke(err)
		}
	})
	return func() {
		close(over)
		if !stop() {
			<-looked
		}
	}
}

// lookTime is how often a client over HTTP/3 is looked at behind the end of our direction.
const lookTime = time.Second

// lookAtClient has the relay end when the client has reset its direction of a stream of
// HTTP/3, or its connection has ended. Where ours has ended as well, quic-go tells that to
// who reads, and to nobody else.
func (s *Stream) lookAtClient(r *relay.Relay, over <-chan struct{}) {
	ticker := time.NewTicker(lookTime)
	defer ticker.Stop()
	for {
		select {
		case <-over:
			return
		case <-ticker.C:
		}
		if err := s.look(); err != nil {
			r.ClientBroke(err)
			return
		}
	}
}

// look returns what has broken the direction of the client, if that is known. It reads no
// byte, and does not wait: a read that is under way sees the same.
func (s *Stream) look() error {
	if !s.reading.TryLock() {
		return nil
	}
	defer s.reading.Unlock()
	if _, err := s.h3.QUICStream().Read(nil); err != nil && err != io.EOF {
		return err
	}
	return nil
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
