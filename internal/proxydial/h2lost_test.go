package proxydial

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// A proxy that never gives back what a tunnel held that has been reset costs no later
// tunnel its bytes: they use another connection, and that one ends.
func TestH2WindowThatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDialer(t, h2Peers(t, func(p *h2Peer) {
			used := map[uint32]int{}
			for {
				switch f := p.next().(type) {
				case *http2.PingFrame:
					_ = p.WritePing(true, f.Data)
				case *http2.MetaHeadersFrame:
					p.reply(f.StreamID, "200")
					if f.PseudoValue("authority") == stuck+":443" {
						used[f.StreamID] = -1 << 30
					}
				case *http2.DataFrame:
					for _, id := range []uint32{0, f.StreamID} {
						if used[f.StreamID] < 0 {
							continue
						}
						if used[id] += len(f.Data()); used[id] >= initialWindow/2 {
							_ = p.WriteWindowUpdate(id, uint32(used[id]))
							used[id] = 0
						}
					}
				}
			}
		}))
		c := open(t, d, stuck)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write(make([]byte, 2*initialWindow))
		c.Close()
		for range 3 {
			synctest.Wait()
			c := open(t, d, reads)
			upload(t, c, 4*initialWindow, time.Minute)
			c.Close()
		}
		if s := d.Stats(); s != (Stats{Conns: 2}) {
			t.Errorf("%+v; want the connection without a window, and another one", s)
		}
		time.Sleep(defaultIdleTimeout + time.Second)
		synctest.Wait()
		if s := d.Stats(); s != (Stats{}) {
			t.Errorf("%+v; want none that is idle", s)
		}
	})
}

// New tunnels use other connections for as long as one is exhausted, however long that is,
// and that one again when it is not any more.
func TestH2ExhaustedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rule := range []giving{atHalf, nearEnd} {
			p := &simParent{stream: initialWindow, conn: initialWindow, ofStream: rule, ofConn: rule}
			d := p.dialer(t, 100)
			stalled := open(t, d, stuck)
			_ = stalled.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = stalled.Write(make([]byte, 2*initialWindow))
			for range 20 {
				upload(t, open(t, d, reads), 4*initialWindow, time.Minute)
				time.Sleep(time.Minute)
			}
			if s := d.Stats(); s.Conns != 2 {
				t.Errorf("%+v; want two connections", s)
			}
			stalled.Close()
			synctest.Wait()
			again := open(t, d, reads).(*stream)
			if again.c.nextID != 5 {
				t.Error("the connection is not used again")
			}
			upload(t, again, 4*initialWindow, time.Minute)
		}
	})
}

// The values of a SETTINGS frame move the windows of tunnels once, by what is left of them
// in the end, and only what changes something wakes those who wait for a slot.
func TestH2SettingsOnceAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const large = 1<<31 - 1
		window := func(n uint32) http2.Setting {
			return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
		}
		streams := func(n uint32) http2.Setting {
			return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
		}
		steps := make(chan func(p *h2Peer))
		defer close(steps)
		d := newDialer(t, h2Peers(t, func(p *h2Peer) {
			id := p.acceptStream()
			p.reply(id, "200")
			_ = p.WriteWindowUpdate(id, 1000) // with the largest of all windows, that is too much
			go func() {
				for err := error(nil); err == nil; _, err = p.ReadFrame() {
				}
			}()
			for step := range steps {
				step(p)
			}
		}))
		c := open(t, d, reads).(*stream)
		for _, tc := range []struct {
			name string
			step func(p *h2Peer)
			left int64
			wake bool
		}{
			{"windows", func(p *h2Peer) { _ = p.WriteSettings(window(0), window(large), window(100)) }, 1100, false},
			{"to and fro", func(p *h2Peer) { _ = p.WriteSettings(window(1), window(100)) }, 1100, false},
			{"nothing", func(p *h2Peer) { _ = p.WriteSettings() }, 1100, false},
			{"more slots", func(p *h2Peer) { _ = p.WriteSettings(streams(2), streams(3)) }, 1100, true},
			{"GOAWAY", func(p *h2Peer) { _ = p.WriteGoAway(1, http2.ErrCodeNo, nil) }, 1100, true},
			{"GOAWAY again", func(p *h2Peer) { _ = p.WriteGoAway(1, http2.ErrCodeNo, nil) }, 1100, false},
		} {
			d.pool.asking.Add(1)
			woken := d.pool.watch()
			steps <- tc.step
			synctest.Wait()
			d.pool.asking.Add(-1)
			wake := false
			select {
			case <-woken:
				wake = true
			default:
			}
			c.c.mu.Lock()
			left, err := c.sendWindow, c.c.err
			c.c.mu.Unlock()
			if left != tc.left || err != nil || wake != tc.wake {
				t.Errorf("%s: a window of %d, woken %v, %v; want %d, %v", tc.name, left, wake, err, tc.left, tc.wake)
			}
		}
	})
}

// Since when a tunnel ought to have been given something back follows all that it depends
// on, not only what the tunnel sends.
func TestH2OwingFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDialer(t, Config{Scheme: HTTP, Dial: func(context.Context) (net.Conn, error) { return nil, io.EOF }})
		c := &h2Conn{cfg: &d.cfg, pool: d.pool, streams: map[uint32]*stream{}, peerWindow: initialWindow, sendWindow: initialWindow, fullWindow: initialWindow}
		c.starving, c.share = time.AfterFunc(time.Hour, func() {}), time.AfterFunc(time.Hour, func() {})
		defer c.starving.Stop()
		defer c.share.Stop()
		a, b := newStream(c, 1), newStream(c, 3)
		c.streams[1], c.streams[3] = a, b
		sent := func(s *stream, n int64) {
			s.sendWindow, s.unread, s.held, c.sendWindow = s.sendWindow-n, s.unread+n, s.held+n, c.sendWindow-n
			s.noteOwing()
		}
		given := func(s *stream, n int64) {
			c.heard = time.Now()
			_ = c.windowGiven(n)
			s.windowGiven(n)
		}
		alone := func(want bool, when string) {
			t.Helper()
			if got := c.standsAlone(a); got != want {
				t.Errorf("%s: stands alone: %v, want %v", when, got, want)
			}
		}
		sent(a, 40_000)
		time.Sleep(5 * time.Second)
		alone(false, "before the proxy is known")
		sent(b, 20_000)
		given(b, 20_000) // within a share: it gives back at half, if not before
		alone(false, "as soon as the proxy is known")
		time.Sleep(2 * time.Second)
		sent(b, 20_000)
		given(b, 20_000)
		alone(true, "2 s after the proxy is known")
		given(a, 1000)
		alone(false, "when it moves")
		time.Sleep(2 * time.Second)
		sent(b, 20_000)
		given(b, 20_000)
		alone(true, "2 s after it has moved for the last time")
		c.heard = time.Now()
		_ = c.windowGiven(1 << 20) // its share is larger, and so is what the proxy may wait for
		alone(false, "when the window is larger")
		_ = c.moveWindows(-initialWindow)
		given(b, 1)
		alone(false, "as soon as its window is used up, for another reason")
	})
}
