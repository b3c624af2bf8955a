package egress

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-egress/egress/internal/relay"
)

// This file contains how the tunnels of one HTTP/3 connection share what its client
// may send ahead.
//
// Caddy fixes the windows of QUIC, and that of a connection is one and a half times
// that of a stream: two tunnels whose destinations do not read can take all of it,
// and then the client cannot send a byte in any other tunnel, nor open one. Neither
// QUIC's windows nor what is buffered can be seen from here. So where two tunnels or
// more have left what the client has sent for starvingTime (through an upstream,
// upstreamTime), and their destinations have taken nothing, while another one has waited
// for the client for starvingTime, the one that stands the longest is reset.

const (
	starvingTime = 10 * time.Second
	// starvingStalled is how many stalled tunnels can starve the others.
	starvingStalled = 2
	// upstreamTime is how long a tunnel through an upstream must have stood to count
	// as stalled. Its destination cannot be seen, and the upstream may take nothing
	// while a slow one empties a third of a socket's buffer.
	upstreamTime = time.Minute
)

// quicTunnels are the tunnels of all HTTP/3 connections. What identifies a
// connection is the address of its client as its requests' contexts have it: one
// object a connection.
var quicTunnels = clientShares{byConn: make(map[net.Addr]*clientShare)}

type clientShares struct {
	mu     sync.Mutex
	byConn map[net.Addr]*clientShare
}

// clientShare are the tunnels of one connection.
type clientShare struct {
	timer *time.Timer
	mu    sync.Mutex
	sides map[*sharedSide]struct{}
}

// sharedSide is a tunnel whose client shares its connection with others.
type sharedSide struct {
	relay atomic.Pointer[relay.Relay]
	start time.Time
	limit time.Duration // how long its client's bytes may be left
	// since is when the client was last waited for, or its bytes were last taken,
	// in nanoseconds from start; in the second case negative. 0 once the client has
	// ended its direction.
	since atomic.Int64
}

func newSharedSide() *sharedSide {
	s := &sharedSide{start: time.Now(), limit: starvingTime}
	s.reading()
	return s
}

func (s *sharedSide) now() int64 { return int64(time.Since(s.start)) + 1 }

// reading is called before bytes of the client are waited for, got when some came.
func (s *sharedSide) reading() { s.since.Store(s.now()) }

func (s *sharedSide) got(err error) {
	if err != nil {
		s.since.Store(0)
		return
	}
	s.since.Store(-s.now())
}

// standing is for how long the client has been waited for, or has waited: one of them
// is 0.
func (s *sharedSide) standing(since int64) (waitedFor, left time.Duration) {
	switch {
	case since > 0:
		return time.Duration(s.now() - since), 0
	case since < 0:
		return 0, time.Duration(s.now() + since)
	}
	return 0, 0
}

// goesOn reports whether the destination has taken bytes since the last look, or these
// wait for a rate of ours: neither is to leave the client's bytes unread. A read comes
// late after either.
func (s *sharedSide) goesOn() bool {
	r := s.relay.Load()
	return r != nil && r.UpGoesOn()
}

// follows names the relay of the tunnel. It may be called on nil.
func (s *sharedSide) follows(r *relay.Relay) {
	if s != nil {
		s.relay.Store(r)
	}
}

// join lists a tunnel with the others of its connection until leave is called.
// There is no side, and nothing to leave, for a client that is not on HTTP/3.
func (c *clientShares) join(t *transaction) (side *sharedSide, leave func()) {
	conn, ok := t.HTTP.Context().Value(http3.RemoteAddrContextKey).(net.Addr)
	if !ok || t.HTTP.ProtoMajor != 3 {
		return nil, func() {}
	}
	side = newSharedSide()
	if t.Ways.Current.Member != nil {
		side.limit = upstreamTime
	}
	return side, c.enter(conn, side)
}

func (c *clientShares) enter(conn net.Addr, side *sharedSide) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	share := c.byConn[conn]
	if share == nil {
		share = &clientShare{sides: make(map[*sharedSide]struct{})}
		share.timer = time.AfterFunc(starvingTime/4, share.look)
		c.byConn[conn] = share
	}
	share.mu.Lock()
	share.sides[side] = struct{}{}
	share.mu.Unlock()
	return func() { c.leave(conn, side) }
}

func (c *clientShares) leave(conn net.Addr, side *sharedSide) {
	c.mu.Lock()
	defer c.mu.Unlock()
	share := c.byConn[conn]
	share.mu.Lock()
	defer share.mu.Unlock()
	delete(share.sides, side)
	if len(share.sides) == 0 {
		share.timer.Stop()
		delete(c.byConn, conn)
	}
}

// look resets a tunnel that starves others. It is called by the timer.
func (s *clientShare) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sides) == 0 {
		return
	}
	s.timer.Reset(starvingTime / 4)
	if side := s.starver(); side != nil {
		if r := side.relay.Load(); r != nil {
			go r.Cut(relay.ReasonStalled) // nobody waits here for a stream that closes
		}
	}
}

// starver is the tunnel that has stood the longest, if there are others that starve.
// It is called with s.mu held.
func (s *clientShare) starver() (longest *sharedSide) {
	stalled, starving := 0, 0
	var most time.Duration
	for side := range s.sides {
		since := side.since.Load()
		waitedFor, left := side.standing(since)
		if side.goesOn() && left > 0 {
			side.since.CompareAndSwap(since, -side.now())
			left = 0
		}
		if waitedFor >= starvingTime {
			starving++
		}
		if left >= side.limit {
			stalled++
			if left > most {
				longest, most = side, left
			}
		}
	}
	if stalled < starvingStalled || starving == 0 {
		return nil
	}
	return longest
}
