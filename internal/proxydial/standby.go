package proxydial

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
)

// standbyDialTimeout bounds one dial ahead, TLS included. Nobody waits for it.
const standbyDialTimeout = 30 * time.Second

// standby keeps connections dialed ahead. One goroutine fills it, from the first
// resize to a positive number until close.
type standby struct {
	d      *Dialer
	pokes  chan struct{} // of capacity 1: something has changed
	ctx    context.Context
	cancel context.CancelFunc
	filler sync.WaitGroup

	mu      sync.Mutex
	want    int
	up      bool
	running bool
	closed  bool
	hold    []waiting // the youngest last
}

// waiting is a connection that nobody has taken.
type waiting struct {
	nc    net.Conn
	since time.Time
}

func newStandby(d *Dialer) *standby {
	ctx, cancel := context.WithCancel(context.Background())
	return &standby{d: d, pokes: make(chan struct{}, 1), ctx: ctx, cancel: cancel}
}

// poke makes the filler look again.
func (s *standby) poke() {
	select {
	case s.pokes <- struct{}{}:
	default:
	}
}

func (s *standby) resize(n int) {
	s.mu.Lock()
	s.want = n
	if n > 0 && !s.running && !s.closed {
		s.running = true
		s.filler.Go(s.fill)
	}
	s.mu.Unlock()
	s.poke()
}

func (s *standby) setUp(up bool) {
	s.mu.Lock()
	s.up = up
	s.mu.Unlock()
	s.poke()
}

func (s *standby) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hold)
}

// take returns the youngest connection that is still alive, and since when it has
// stood, or nil: one that has stood for less than within, where that is not 0, and none
// where it is below.
func (s *standby) take(within time.Duration) (net.Conn, time.Time) {
	for within >= 0 {
		s.mu.Lock()
		n := len(s.hold)
		if n == 0 || within > 0 && time.Since(s.hold[n-1].since) >= within {
			s.mu.Unlock()
			break
		}
		w := s.hold[n-1]
		s.hold = s.hold[:n-1]
		s.mu.Unlock()
		s.poke()
		if time.Since(w.since) < s.d.cfg.IdleTimeout && h1.NewConn(w.nc).Alive() {
			return w.nc, w.since
		}
		_ = w.nc.Close()
	}
	return nil, time.Time{}
}

// dropBefore closes the connections that have stood since before then.
func (s *standby) dropBefore(then time.Time) {
	s.mu.Lock()
	n := 0
	for n < len(s.hold) && s.hold[n].since.Before(then) {
		n++
	}
	drop := s.hold[:n]
	s.hold = slices.Clone(s.hold[n:])
	s.mu.Unlock()
	closeAll(drop)
	s.poke()
}

// close ends the filler and closes what it has dialed.
func (s *standby) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.filler.Wait()
	s.mu.Lock()
	hold := s.hold
	s.hold = nil
	s.mu.Unlock()
	closeAll(hold)
}

func closeAll(hold []waiting) {
	for _, w := range hold {
		_ = w.nc.Close()
	}
}

// fill dials while there are too few, and waits otherwise.
func (s *standby) fill() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for s.ctx.Err() == nil {
		pause, lacking := s.tidy()
		if lacking {
			if s.dial() {
				continue
			}
			pause = s.d.cfg.StandbyRetry
		}
		timer.Reset(pause)
		if lacking {
			// No poke shortens the pause after a failure.
			select {
			case <-timer.C:
			case <-s.ctx.Done():
			}
			continue
		}
		select {
		case <-timer.C:
		case <-s.pokes:
		case <-s.ctx.Done():
		}
	}
}

// tidy closes what has waited for too long or is not wanted, and says how long
// the rest may wait, and whether more is needed.
func (s *standby) tidy() (pause time.Duration, lacking bool) {
	spare := s.d.pool.spare()
	s.mu.Lock()
	var drop []waiting
	want := s.want
	if !s.up {
		want = 0
	}
	pause = s.d.cfg.IdleTimeout
	for len(s.hold) > 0 {
		left := s.d.cfg.IdleTimeout - time.Since(s.hold[0].since)
		if left > 0 && len(s.hold) <= want {
			pause = left
			break
		}
		drop = append(drop, s.hold[0])
		s.hold = append([]waiting(nil), s.hold[1:]...)
	}
	lacking = len(s.hold)+spare < want
	s.mu.Unlock()
	closeAll(drop)
	return pause, lacking
}

// dial makes one connection and keeps it.
func (s *standby) dial() bool {
	ctx, cancel := context.WithTimeout(s.ctx, standbyDialTimeout)
	defer cancel()
	if s.d.tlsBoth != nil {
		c, nc, err := s.d.pool.open(ctx)
		if err != nil {
			return false
		}
		if c != nil {
			free, usable := c.room()
			if free <= 0 || !usable {
				c.drain()
				return false
			}
			s.d.pool.add(c)
			return true
		}
		s.keep(nc)
		return true
	}
	nc, err := s.d.open(ctx, s.d.tlsH1, Client{})
	if err != nil {
		return false
	}
	s.keep(nc)
	return true
}

func (s *standby) keep(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = append(s.hold, waiting{nc, time.Now()})
}
