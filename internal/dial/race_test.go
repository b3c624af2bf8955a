package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-egress/egress/internal/target"
)

// attempt is what dialing an address brings, and when.
type attempt struct {
	after time.Duration
	err   error // nil: a connection
	hangs bool  // until it is cancelled
}

// raceTest dials addresses as the script says, in the time of a synctest
// bubble.
type raceTest struct {
	*testing.T
	begin  time.Time
	script map[netip.Addr]attempt

	mu      sync.Mutex
	started map[netip.Addr]time.Duration
	open    map[netip.Addr]bool
}

// raceConn is a connection that tells when it is closed.
type raceConn struct {
	race *raceTest
	addr netip.Addr
}

func (c raceConn) Close() error {
	c.race.mu.Lock()
	defer c.race.mu.Unlock()
	c.race.open[c.addr] = false
	return nil
}

func newRaceTest(t *testing.T, script map[netip.Addr]attempt) *raceTest {
	return &raceTest{T: t, begin: time.Now(), script: script, started: make(map[netip.Addr]time.Duration), open: make(map[netip.Addr]bool)}
}

func (r *raceTest) dial(ctx context.Context, a netip.Addr) (raceConn, error) {
	r.mu.Lock()
	r.started[a] = time.Since(r.begin)
	r.mu.Unlock()
	at := r.script[a]
	if at.hangs {
		<-ctx.Done()
		return raceConn{}, ctx.Err()
	}
	if at.after > 0 {
		// A connection may stand although nobody wants it any more.
		time.Sleep(at.after)
	}
	if at.err != nil {
		return raceConn{}, at.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[a] = true
	return raceConn{r, a}, nil
}

// stillOpen are the connections that nobody has closed.
func (r *raceTest) stillOpen() []netip.Addr {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var open []netip.Addr
	for a, is := range r.open {
		if is {
			open = append(open, a)
		}
	}
	return open
}

func (r *raceTest) startedAt(a netip.Addr) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.started[a]; ok {
		return at
	}
	return -1
}

func TestRace(t *testing.T) {
	const delay = 250 * time.Millisecond
	const never = time.Duration(-1)
	list := addrs("2001:db8::1", "192.0.2.1", "2001:db8::2")
	hole := attempt{hangs: true}
	late := func(d time.Duration) attempt { return attempt{after: d} }
	fails := func(d time.Duration, text string) attempt { return attempt{after: d, err: errors.New(text)} }
	for _, tc := range []struct {
		name     string
		script   [3]attempt
		winner   int // index, -1 for none
		takes    time.Duration
		err      string
		starts   [3]time.Duration
		canceled time.Duration // when the caller leaves, 0 for never
		deadline time.Duration // when the caller's time is up, 0 for never
	}{
		{name: "first at once", script: [3]attempt{late(0), hole, hole}, winner: 0, starts: [3]time.Duration{0, never, never}},
		{name: "first before the delay", script: [3]attempt{late(delay - 1), hole, hole}, winner: 0, takes: delay - 1, starts: [3]time.Duration{0, never, never}},
		{name: "first is a black hole", script: [3]attempt{hole, late(20 * time.Millisecond), hole}, winner: 1, takes: delay + 20*time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "two black holes", script: [3]attempt{hole, hole, late(0)}, winner: 2, takes: 2 * delay, starts: [3]time.Duration{0, delay, 2 * delay}},
		{name: "slow first wins", script: [3]attempt{late(delay + 10*time.Millisecond), late(time.Second), hole}, winner: 0, takes: delay + 10*time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "first fails", script: [3]attempt{fails(0, "one"), late(0), hole}, winner: 1, starts: [3]time.Duration{0, 0, never}},
		{name: "first fails late", script: [3]attempt{fails(delay+100*time.Millisecond, "one"), hole, late(0)}, winner: 2, takes: delay + 100*time.Millisecond, starts: [3]time.Duration{0, delay, delay + 100*time.Millisecond}},
		{name: "delay begins anew", script: [3]attempt{fails(200*time.Millisecond, "one"), hole, late(0)}, winner: 2, takes: 200*time.Millisecond + delay, starts: [3]time.Duration{0, 200 * time.Millisecond, 200*time.Millisecond + delay}},
		{name: "all fail", script: [3]attempt{fails(time.Millisecond, "one"), fails(0, "two"), fails(0, "three")}, winner: -1, takes: time.Millisecond, err: "one", starts: [3]time.Duration{0, time.Millisecond, time.Millisecond}},
		{name: "last fails first", script: [3]attempt{fails(time.Second, "one"), fails(time.Second, "two"), fails(0, "three")}, winner: -1, takes: delay + time.Second, err: "three", starts: [3]time.Duration{0, delay, 2 * delay}},
		{name: "two at once", script: [3]attempt{late(delay + 20*time.Millisecond), late(10 * time.Millisecond), hole}, winner: 1, takes: delay + 10*time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "caller leaves", script: [3]attempt{hole, hole, hole}, winner: -1, takes: 300 * time.Millisecond, err: "context canceled", canceled: 300 * time.Millisecond, starts: [3]time.Duration{0, delay, never}},
		{name: "caller leaves after a failure", script: [3]attempt{fails(0, "one"), hole, hole}, winner: -1, takes: 100 * time.Millisecond, err: "context canceled", canceled: 100 * time.Millisecond, starts: [3]time.Duration{0, 0, never}},
		{name: "no time", script: [3]attempt{hole, hole, hole}, winner: -1, takes: 100 * time.Millisecond, err: "context deadline exceeded", deadline: 100 * time.Millisecond, starts: [3]time.Duration{0, never, never}},
		{name: "no time after a failure", script: [3]attempt{fails(0, "one"), hole, hole}, winner: -1, takes: 100 * time.Millisecond, err: "one", deadline: 100 * time.Millisecond, starts: [3]time.Duration{0, 0, never}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				script := make(map[netip.Addr]attempt)
				for i, a := range list {
					script[a] = tc.script[i]
				}
				r := newRaceTest(t, script)
				ctx, cancel := context.WithCancel(t.Context())
				if tc.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tc.deadline)
				}
				defer cancel()
				if tc.canceled > 0 {
					time.AfterFunc(tc.canceled, cancel)
				}
				conn, err := race(ctx, candidatesOf(list...), nil, delay, r.dial)
				if took := time.Since(r.begin); took != tc.takes {
					t.Errorf("took %s, want %s", took, tc.takes)
				}
				switch {
				case tc.winner < 0:
					if err == nil || err.Error() != tc.err {
						t.Errorf("error %v, want %s", err, tc.err)
					}
				case err != nil:
					t.Error(err)
				case conn.addr != list[tc.winner]:
					t.Errorf("connected to %s", conn.addr)
				}
				for i, want := range tc.starts {
					if at := r.startedAt(list[i]); at != want {
						t.Errorf("%s was dialed at %s, want %s", list[i], at, want)
					}
				}
				time.Sleep(time.Minute) // losers come in and are closed
				var want []netip.Addr
				if tc.winner >= 0 {
					want = list[tc.winner : tc.winner+1]
				}
				if open := r.stillOpen(); !slices.Equal(open, want) {
					t.Errorf("open are %v, want %v", open, want)
				}
			})
		})
	}
}

// The race over real sockets leaves no goroutine and no connection behind.
func TestRaceClosesLosers(t *testing.T) {
	noLeaks(t)
	port, listeners := listenAt(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	d := newDialer(t, (&answers{list: [][]netip.Addr{addrs("127.0.0.1", "127.0.0.2", "127.0.0.3")}}).resolve, "allow 127.0.0.0/8")
	d.FallbackDelay = time.Nanosecond // all at once
	conn, err := d.Dial(t.Context(), target.Target{Host: "origin.test", Port: port}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for host, ln := range listeners {
		ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		last, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for {
			accepted, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if accepted.RemoteAddr().String() == last.LocalAddr().String() {
				accepted.Close()
				break
			}
			if accepted.RemoteAddr().String() == conn.LocalAddr().String() {
				accepted.Close()
				continue
			}
			// Closed, not kept: a read ends.
			accepted.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := accepted.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a loser at %s is open: %v", host, err)
			}
			accepted.Close()
		}
		last.Close()
	}
}
