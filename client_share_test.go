package egress

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/layers"
	"github.com/caddy-egress/egress/internal/relay"
)

// A destination that reads, however slowly, is not stalled: its socket shows it before it
// takes more.
func TestSharedSide_Drains(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	destination, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer destination.Close()
	side := newSharedSide(far)
	if _, ok := layers.Unsent(side.far); !ok {
		t.Skip("this platform does not tell what is unsent")
	}
	// Until its window is full and some is left in the socket.
	for n := 0; n == 0; n, _ = layers.Unsent(side.far) {
		_ = far.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = far.Write(make([]byte, 1<<20))
	}
	for side.drains() { // what was on its way arrives
	}
	if side.drains() {
		t.Error("it drains, though nobody reads")
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, destination)
		read <- err
	}()
	for deadline := time.Now().Add(30 * time.Second); !side.drains(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not drain, though the destination reads")
		}
	}
	far.Close()
	<-read
}

// Of the tunnels of an HTTP/3 connection, one that has left its client's bytes unread
// for long is reset only where others stall too and yet another one starves.
func TestClientShare(t *testing.T) {
	stalled := func(s *sharedSide) { s.got(nil) }
	waiting := func(s *sharedSide) { s.reading() }
	ended := func(s *sharedSide) { s.got(io.EOF) }
	busy := func(s *sharedSide) { // for a minute
		for range 120 {
			s.got(nil)
			time.Sleep(500 * time.Millisecond)
			s.reading()
		}
	}
	type sides []func(*sharedSide)
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
				shares := clientShares{byConn: make(map[net.Addr]*clientShare)}
				conn := &net.UDPAddr{}
				ends := make(chan relay.Reason, len(tc.sides))
				var relays []*relay.Relay
				for _, be := range tc.sides {
					side := newSharedSide(nil)
					leave := shares.enter(conn, side)
					near, far := net.Pipe()
					r := relay.New(closeOnly{near}, closeOnly{far}, relay.Config{})
					side.follows(r)
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
