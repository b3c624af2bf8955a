package egress

import (
	"context"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains how the tunnels of a handler end when the handler is no longer
// in the configuration, or when the process exits.
//
// The tunnels are listed in books, which are in a UsagePool of the process and hold
// no handler (tunnellimits.go). A configuration enters the book of each of its
// handlers when it is provisioned and leaves it when it is cleaned up. On a reload
// the next one has entered by then; where none has, the handler is gone, and its
// tunnels have `close_delay` left.
//
// At exit, Caddy waits for requests, and so for the tunnels of HTTP/2 and HTTP/3,
// for ever if no grace period is set; of tunnels over HTTP/1.1, whose connections
// were taken over from net/http, it knows nothing. So tunnels have `close_delay`
// left from the moment at which the server shuts down, and the process waits for
// those that Caddy does not wait for.

func init() {
	caddy.OnExit(func(context.Context) { awaitBooks() })
}

const (
	// drainSettle is for how long a tunnel goes on that is being ended, so that
	// what has arrived is relayed.
	drainSettle = 100 * time.Millisecond

	// drainLinger is how long the peers of such a tunnel may then take to end it
	// from their side.
	drainLinger = time.Second

	// drainTime is how long it takes to end tunnels in order, at most.
	drainTime = drainSettle + drainLinger
)

// exitFlush is how long the process still runs behind the last tunnel, at most. Its
// handler has yet to return: then the end of the stream is written, on HTTP/2 and
// HTTP/3, and the line of the access log.
const exitFlush = 500 * time.Millisecond

// drain is the end that tunnels have before them. Each runs once.
type drain struct {
	at      time.Time
	timer   *time.Timer
	exiting bool // nothing stops it, and it ends tunnels that come later as well
	over    bool // the timer has fired
}

// drainWithin has the tunnels ended after a delay, if they are not to be ended
// sooner already. mu is held.
func (s *liveTunnels) drainWithin(delay time.Duration, exiting bool) {
	d := &drain{at: time.Now().Add(delay), exiting: exiting}
	if s.drain != nil {
		if exiting = exiting || s.drain.exiting; !s.drain.at.After(d.at) {
			s.drain.exiting = exiting
			return
		}
		s.drain.timer.Stop()
		d.exiting = exiting
	}
	d.timer = time.AfterFunc(delay, func() { s.endAll(d) })
	s.drain = d
}

// exit has the tunnels ended after a delay since the process exits, also those that
// come later, and returns how many there are. Nothing gives them more time.
func (s *liveTunnels) exit(delay time.Duration) (tunnels int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainWithin(delay, true)
	return s.count
}

// endAll ends the tunnels that are there, unless they were given more time.
func (s *liveTunnels) endAll(d *drain) {
	s.mu.Lock()
	if s.drain != d {
		s.mu.Unlock()
		return
	}
	if d.over = true; !d.exiting {
		s.drain = nil // one that comes late has its own delay
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

func (l *liveTunnel) drain() { l.relay.Drain(relay.ReasonDrain, drainSettle, drainLinger) }

// abandoned tells that no configuration holds the book any more, and returns how many
// tunnels there are that have been given a delay. The last one to go may never have run:
// then what was set before it came still stands. mu is held.
func (s *liveTunnels) abandoned(p *tunnelPolicy, failed bool) int {
	switch {
	case s.count == 0:
		return 0
	case failed && !s.paused.IsZero():
		s.drainWithin(max(time.Until(s.paused), 0), false)
		return 0
	}
	s.drainWithin(p.closeDelay, false)
	return s.count
}

// adopted tells that a configuration has entered the book: tunnels of a handler that
// was gone are its own again, unless it fails. mu is held.
func (s *liveTunnels) adopted() {
	if s.drain != nil && !s.drain.exiting {
		s.paused = s.drain.at
		s.spare()
	}
}

// spare calls an end off, but for that of the process. mu is held.
func (s *liveTunnels) spare() {
	if s.drain != nil && !s.drain.exiting {
		s.drain.timer.Stop()
		s.drain = nil
	}
}

// late has a tunnel ended that comes when none should: its request has outlived the
// handler. It reports true if that is to be at once. mu is held.
func (s *liveTunnels) late(delay time.Duration) (now bool) {
	switch {
	case s.drain != nil:
		return s.drain.over
	case len(s.policies) == 0:
		s.drainWithin(delay, false)
	}
	return false
}

// left tells that the last tunnel is gone. mu is held.
func (s *liveTunnels) left() {
	if s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
	s.spare() // there is nothing to be ended
	s.paused = time.Time{}
	s.last = time.Now()
}

// await waits until there is no tunnel, and the last one has had its time to be told.
func (s *liveTunnels) await(ctx context.Context) {
	s.mu.Lock()
	if s.count > 0 && s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	if empty != nil {
		select {
		case <-empty:
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

// drainAtExit has the tunnels of the handler ended when the process exits, and makes
// the process wait for that. The server calls the hooks on reloads too.
func (h *Handler) drainAtExit(ctx caddy.Context) {
	app, server := appOf(ctx)
	if app == nil || server == nil {
		return // Cleanup is all there is
	}
	live, name := &h.tunnels.Value.live, h.place()
	delay := exitDelay(time.Duration(*h.tunnel.CloseDelay), time.Duration(app.GracePeriod))
	server.RegisterOnShutdown(func() {
		if !caddy.Exiting() {
			return
		}
		if left := live.exit(delay); left > 0 {
			drainLogger().Info("exiting; tunnels have a while left",
				zap.String("handler", name), zap.Int("tunnels", left), zap.Duration("delay", delay))
		}
	})
	// After Shutdown, which does not wait for connections that were taken over,
	// and before the logs are closed. The context ends with the grace period.
	server.RegisterOnStop(func(ctx context.Context) error {
		if caddy.Exiting() {
			live.await(ctx)
		}
		return nil
	})
}

// exitDelay is how long tunnels have at exit. The grace period, where there is one,
// is the limit, and to end in order takes a moment of it.
func exitDelay(closeDelay, grace time.Duration) time.Duration {
	if grace > 0 {
		return min(closeDelay, max(grace-drainTime, 0))
	}
	return closeDelay
}

// awaitBooks waits for the tunnels of all handlers. Those that are left when the
// apps have stopped are of handlers that were gone before, and have their end set.
func awaitBooks() {
	for _, b := range tunnelBooks.All() {
		b.live.await(context.Background())
	}
}

// activeConfig is what tells the active configuration from others; nil if there is none.
func activeConfig() <-chan struct{} {
	if ctx := caddy.ActiveContext().Context; ctx != nil {
		return ctx.Done()
	}
	return nil
}

// drainLogger is the logger of the configuration that runs: that of the handler may
// be closed.
func drainLogger() *zap.Logger {
	return caddy.Log().Named("http.handlers.egress.drain")
}
