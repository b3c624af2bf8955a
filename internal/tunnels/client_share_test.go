package tunnels

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/relay"
)

// sharedReads is the client's side of a tunnel, as clientStream has it.
type sharedReads struct {
	relay.CloseOnly
	side *Side
}

func (s sharedReads) Read(p []byte) (int, error) {
	s.side.Reading()
	n, err := s.CloseOnly.Read(p)
	s.side.Got(err)
	return n, err
}

// crediting is a connection whose peer takes bytes long before a write returns: a stream
// of an upstream over HTTP/2.
type crediting struct {
	relay.CloseOnly
	unsent atomic.Int64
}

func (c *crediting) Unsent() int { return int(c.unsent.Load()) }

// Tunnels whose bytes we hold back ourselves, and those whose destinations take bytes
// through an upstream, are not reset, however long the client's bytes stand.
func TestClientShare_SlowIsNotStalled(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  func() relay.Config
		far  func(net.Conn) relay.Stream
		read func(net.Conn) // what the destination does
	}{
		"paced": {
			func() relay.Config { return relay.Config{UpRates: []*relay.Rate{relay.NewRate(2000)}} },
			func(c net.Conn) relay.Stream { return relay.CloseOnly{Conn: c} },
			func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		},
		"paced below a piece": {
			func() relay.Config { return relay.Config{UpRates: []*relay.Rate{relay.NewRate(10)}} },
			func(c net.Conn) relay.Stream { return relay.CloseOnly{Conn: c} },
			func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		},
		"credited": {
			func() relay.Config { return relay.Config{} },
			func(c net.Conn) relay.Stream {
				far := &crediting{CloseOnly: relay.CloseOnly{Conn: c}}
				far.unsent.Store(1 << 20)
				go func() {
					for range 120 {
						time.Sleep(time.Second)
						far.unsent.Add(-100)
					}
				}()
				return far
			},
			func(net.Conn) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shares := Shares{byConn: make(map[net.Addr]*clientShare)}
				conn := &net.UDPAddr{}
				ends := make(chan relay.Result, 3)
				var relays []*relay.Relay
				for i := range 3 {
					side := newSharedSide()
					leave := shares.enter(conn, side)
					client, near := net.Pipe()
					farEnd, destination := net.Pipe()
					r := relay.New(sharedReads{relay.CloseOnly{Conn: near}, side}, tc.far(farEnd), tc.cfg())
					side.Follows(r)
					relays = append(relays, r)
					go tc.read(destination)
					if i > 0 { // the first is quiet
						go func() { _, _ = client.Write(make([]byte, 1<<20)) }()
					}
					go func() {
						ends <- r.Run()
						leave()
						client.Close()
						destination.Close()
					}()
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := len(ends); n != 0 {
					t.Errorf("%d tunnels have ended: %+v", n, <-ends)
				}
				for _, r := range relays {
					r.End(relay.ReasonClosed)
				}
				time.Sleep(2 * time.Minute) // until all goroutines have ended
			})
		})
	}
}

// Of the tunnels of an HTTP/3 connection, one that has left its client's bytes unread
// for long is reset only where others stall too and yet another one starves.
func TestClientShare(t *testing.T) {
	stalled := func(s *Side) { s.Got(nil) }
	waiting := func(s *Side) { s.Reading() }
	ended := func(s *Side) { s.Got(io.EOF) }
	busy := func(s *Side) { // for a minute
		for range 120 {
			s.Got(nil)
			time.Sleep(500 * time.Millisecond)
			s.Reading()
		}
	}
	type sides []func(*Side)
	for name, tc := range map[string]struct {
		sides sides
		reset int // how many in the end
	}{
		"two stalled, one starves":   {sides{stalled, stalled, waiting}, 1},
		"three stalled, one starves": {sides{stalled, stalled, stalled, waiting}, 2},
		"one stalled":                {sides{stalled, waiting, waiting}, 0},
		"nobody starves":             {sides{stalled, stalled, busy}, 0},
		"nobody else":                {sides{stalled, stalled}, 0},
		"ended":                      {sides{ended, ended, waiting, stalled}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shares := Shares{byConn: make(map[net.Addr]*clientShare)}
				conn := &net.UDPAddr{}
				ends := make(chan relay.Reason, len(tc.sides))
				var relays []*relay.Relay
				for _, be := range tc.sides {
					side := newSharedSide()
					leave := shares.enter(conn, side)
					near, far := net.Pipe()
					r := relay.New(relay.CloseOnly{Conn: near}, relay.CloseOnly{Conn: far}, relay.Config{})
					side.Follows(r)
					relays = append(relays, r)
					go be(side)
					go func() {
						ends <- r.Run().Reason
						leave()
					}()
				}
				time.Sleep(starvingTime - time.Second)
				synctest.Wait()
				if n := len(ends); n != 0 {
					t.Errorf("%d tunnels have ended too early", n)
				}
				time.Sleep(30 * time.Second)
				synctest.Wait()
				if n := len(ends); n != tc.reset {
					t.Errorf("%d tunnels reset; want %d", n, tc.reset)
				}
				for range tc.reset {
					if reason := <-ends; reason != relay.ReasonStalled {
						t.Errorf("ended for %v", reason)
					}
				}
				for _, r := range relays {
					r.End(relay.ReasonClosed)
				}
				time.Sleep(time.Minute) // until all goroutines have ended
				synctest.Wait()
				if n := len(shares.byConn); n != 0 {
					t.Errorf("%d connections are still known", n)
				}
			})
		})
	}
}
