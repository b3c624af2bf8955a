package proxydial

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/caddy-egress/egress/internal/h1"
	"github.com/caddy-egress/egress/internal/layers"
)

// standbyDialTimeout bounds one dial ahead, TLS included. Nobody waits for it.
const standbyDialTimeout = 30 * time.Second

// maxStandbyRetry bounds the pause after failures, which doubles with each.
const maxStandbyRetry = 30 * time.Second

// standby keeps connections dialed ahead. One goroutine fills it, from the first
// resize to a positive number until close. One for each connection notices its end
// (those over HTTP/2 have one that reads).
//
// A connection that ends before it is StandbyRetry old, and that nobody has taken, counts
// as a dial that failed: the proxy may accept connections only to close them.
type standby struct {
	d      *Dialer
	pokes  chan struct{} // of capacity 1: something has changed
	ctx    context.Context
	cancel context.CancelFunc
	filler sync.WaitGroup
	others sync.WaitGroup // the goroutines that watch
	young  []youngH2      // of the filler

	mu      sync.Mutex
	want    int
	up      bool
	running bool
	closed  bool
	hold    []*waiting // the youngest last
	pause   time.Duration
	next    time.Time // when pause is over: no dial before
}

// waiting is a connection that nobody has taken.
type waiting struct {
	nc      net.Conn
	since   time.Time
	watched chan struct{} // closed when nobody watches it any more
	ended   bool          // it was seen to end; to be read behind watched
}

// youngH2 is a connection over HTTP/2 that was dialed within StandbyRetry.
type youngH2 struct {
	c     *h2Conn
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
	if up && !s.up {
		s.next = time.Time{} // earlier failures say nothing about a proxy that has come back
	}
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
		if w.release() && time.Since(w.since) < s.d.cfg.IdleTimeout {
			return w.nc, w.since
		}
		_ = layers.Close(w.nc)
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

// watch waits for the end of a connection. What comes before anything was asked for is
// one, too.
func (s *standby) watch(w *waiting) {
	defer close(w.watched)
	if _, err := w.nc.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return // it is released
	}
	w.ended = true
	s.mu.Lock()
	i := slices.Index(s.hold, w)
	if i >= 0 {
		s.hold = slices.Delete(s.hold, i, i+1)
		if time.Since(w.since) < s.d.cfg.StandbyRetry {
			s.failed()
		}
	}
	s.mu.Unlock()
	if i >= 0 {
		_ = layers.Close(w.nc)
		s.poke()
	}
}

// release ends the watch. It reports whether the connection is alive.
func (w *waiting) release() bool {
	if err := w.nc.SetReadDeadline(time.Unix(1, 0)); err != nil {
		_ = layers.Close(w.nc) // or the watch might not end
	}
	<-w.watched
	return !w.ended && w.nc.SetReadDeadline(time.Time{}) == nil && h1.NewConn(w.nc).Alive()
}

// failed begins a pause. It is called with s.mu held.
func (s *standby) failed() {
	now, retry := time.Now(), s.d.cfg.StandbyRetry
	switch {
	case now.Before(s.next):
		return // of several that fail at once, one counts
	case now.Sub(s.next) > 2*retry:
		s.pause = retry
	default:
		s.pause = min(2*s.pause, max(retry, maxStandbyRetry))
	}
	s.next = now.Add(s.pause)
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
	s.others.Wait()
}

func closeAll(hold []*waiting) {
	for _, w := range hold {
		_ = layers.Close(w.nc)
	}
}

// fill dials while there are too few, and waits otherwise.
func (s *standby) fill() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for s.ctx.Err() == nil {
		pause, lacking := s.tidy()
		if lacking {
			s.dial()
			continue
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-s.pokes:
		case <-s.ctx.Done():
		}
	}
}

// tidy closes what has waited for too long or is not wanted, and says how long
// the rest may wait, and whether another one is to be dialed.
func (s *standby) tidy() (pause time.Duration, lacking bool) {
	spare := s.d.pool.spare()
	s.lookAtYoung() // behind it: what was no spare is seen to have failed
	s.mu.Lock()
	var drop []*waiting
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
		s.hold = slices.Clone(s.hold[1:])
	}
	lacking = len(s.hold)+spare < want
	if left := time.Until(s.next); lacking && left > 0 {
		pause, lacking = min(pause, left), false
	}
	s.mu.Unlock()
	closeAll(drop)
	return pause, lacking
}

// lookAtYoung takes a connection over HTTP/2 for a failure that takes no tunnels although
// none has begun there.
func (s *standby) lookAtYoung() {
	s.young = slices.DeleteFunc(s.young, func(y youngH2) bool {
		used, fit := y.c.fit()
		old := time.Since(y.since) >= s.d.cfg.StandbyRetry
		if !used && !fit && !old {
			s.mu.Lock()
			s.failed()
			s.mu.Unlock()
		}
		return used || !fit || old
	})
}

// dial makes one connection and keeps it.
func (s *standby) dial() {
	ctx, cancel := context.WithTimeout(s.ctx, standbyDialTimeout)
	defer cancel()
	c, nc, err := s.open(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil:
		s.failed()
	case c != nil:
		s.young = append(s.young, youngH2{c, time.Now()})
	default:
		w := &waiting{nc: nc, since: time.Now(), watched: make(chan struct{})}
		s.hold = append(s.hold, w)
		s.others.Go(func() { s.watch(w) })
	}
}

// open dials. A connection over HTTP/2 is in the pool then.
func (s *standby) open(ctx context.Context) (*h2Conn, net.Conn, error) {
	if s.d.tlsBoth == nil {
		nc, err := s.d.open(ctx, s.d.tlsH1, Client{})
		return nil, nc, err
	}
	c, nc, err := s.d.pool.open(ctx)
	if c == nil {
		return nil, nc, err
	}
	if free, usable := c.room(); free <= 0 || !usable {
		c.drain()
		return nil, nil, errNoCapacity
	}
	s.d.pool.add(c)
	return c, nil, nil
}
