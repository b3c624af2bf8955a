package tunnels

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains how the tunnels of a handler end when the handler is no longer
// in the configuration, or when the process exits.
//
// A configuration enters the book of each of its handlers when it is provisioned and
// leaves it when it is cleaned up. On a reload the next one has entered by then; where
// none has, the handler is gone, and its tunnels have a delay left.

const (
	// settle is for how long a tunnel goes on that is being ended, so that
	// what has arrived is relayed.
	settle = 100 * time.Millisecond

	// linger is how long the peers of such a tunnel may then take to end it
	// from their side.
	linger = time.Second

	// DrainTime is how long it takes to end a tunnel in order, at most.
	DrainTime = settle + linger
)

// exitFlush is how long the process still runs behind the last tunnel, at most. Its
// handler has yet to return: then the end of the stream is written, on HTTP/2 and
// HTTP/3, and the line of the access log.
const exitFlush = 500 * time.Millisecond

// overdue is for how long the process still waits, at exit, for tunnels that should have
// ended: what ends one whose client takes nothing needs some seconds. Nothing that a
// client does may keep the process for ever.
const overdue = 20 * time.Second

// deadline is the end that tunnels have before them. Each runs once.
type deadline struct {
	at      time.Time
	timer   *time.Timer
	exiting bool // nothing stops it, and it ends tunnels that come later as well
	over    bool // the timer has fired
}

// drainWithin has the tunnels ended after a delay, if they are not to be ended
// sooner already. mu is held.
func (s *List) drainWithin(delay time.Duration, exiting bool) {
	d := &deadline{at: time.Now().Add(delay), exiting: exiting}
	if s.deadline != nil {
		if exiting = exiting || s.deadline.exiting; !s.deadline.at.After(d.at) {
			s.deadline.exiting = exiting
			return
		}
		s.deadline.timer.Stop()
		d.exiting = exiting
	}
	d.timer = time.AfterFunc(delay, func() { s.endAll(d) })
	s.deadline = d
}

// Exit has the tunnels ended after a delay since the process exits, also those that
// come later, and returns how many there are. Nothing gives them more time.
func (s *List) Exit(delay time.Duration) (tunnels int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainWithin(delay, true)
	return s.count
}

// endAll ends the tunnels that are there, unless they were given more time.
func (s *List) endAll(d *deadline) {
	s.mu.Lock()
	if s.deadline != d {
		s.mu.Unlock()
		return
	}
	if d.over = true; !d.exiting {
		s.deadline = nil // one that comes late has its own delay
	}
	s.mu.Unlock()
	list := s.all()
	for _, l := range list {
		go l.drain() // with TLS it can take seconds
	}
	if len(list) > 0 {
		s.logger().Info("tunnels ended whose time was over", zap.Int("tunnels", len(list)))
	}
}

func (l *live) drain() { l.relay.Drain(relay.ReasonDrain, settle, linger) }

// abandoned tells that no configuration holds the book any more, and returns how many
// tunnels there are that have been given a delay. The last one to go may never have run:
// then what was set before it came still stands. mu is held.
func (s *List) abandoned(p *Policy, failed bool) int {
	switch {
	case s.count == 0:
		return 0
	case failed && !s.paused.IsZero():
		s.drainWithin(max(time.Until(s.paused), 0), false)
		return 0
	}
	s.drainWithin(p.CloseDelay, false)
	return s.count
}

// adopted tells that a configuration has entered the book: tunnels of a handler that
// was gone are its own again, unless it fails. mu is held.
func (s *List) adopted() {
	if s.deadline != nil && !s.deadline.exiting {
		s.paused = s.deadline.at
		s.spare()
	}
}

// spare calls an end off, but for that of the process. mu is held.
func (s *List) spare() {
	if s.deadline != nil && !s.deadline.exiting {
		s.deadline.timer.Stop()
		s.deadline = nil
	}
}

// late has a tunnel ended that comes when none should: its request has outlived the
// handler. It reports true if that is to be at once. mu is held.
func (s *List) late(delay time.Duration) (now bool) {
	switch {
	case s.deadline != nil:
		return s.deadline.over
	case len(s.policies) == 0:
		s.drainWithin(delay, false)
	}
	return false
}

// left tells that the last tunnel is gone. mu is held.
func (s *List) left() {
	if s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
	s.spare() // there is nothing to be ended
	s.paused = time.Time{}
	s.last = time.Now()
}

// Await waits, at exit, until there is no tunnel, and the last one has had its time to be
// told. It does not wait for tunnels that do not end although their time is over.
func (s *List) Await(ctx context.Context) {
	s.mu.Lock()
	if s.count > 0 && s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty, patience := s.empty, DrainTime+overdue
	if s.deadline != nil {
		patience += max(time.Until(s.deadline.at), 0)
	}
	s.mu.Unlock()
	if empty != nil {
		late := time.NewTimer(patience)
		defer late.Stop()
		select {
		case <-empty:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
	s.mu.Lock()
	told := exitFlush - time.Since(s.last)
	s.mu.Unlock()
	if told > 0 {
		select {
		case <-time.After(told):
		case <-ctx.Done():
		}
	}
}
