package proxydial

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// A pause of what is behind a proxy, in which no tunnel's bytes are taken, is blamed on
// none of them, and is no sign of a proxy that gives windows back late. A long one costs
// few tunnels.
func TestH2PauseOfAll(t *testing.T) {
	for _, tc := range []struct {
		pause     time.Duration
		tunnels   int
		each      int // bytes that a tunnel sends twenty times a second
		mayBreak  int
		beginning bool // the pause comes first
	}{
		{4 * time.Second, 2, 5000, 0, false},
		{4 * time.Second, 3, 5000, 0, false},
		{9 * time.Second, 3, 5000, 0, false},
		{9 * time.Second, 20, 500, 0, false},
		{9 * time.Second, 2, 50_000, 0, true},
		{25 * time.Second, 3, 5000, 2, false},
		{25 * time.Second, 50, 200, 2, false},
	} {
		t.Run(fmt.Sprintf("%v, %d tunnels of %d, first %v", tc.pause, tc.tunnels, tc.each, tc.beginning), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &simParent{stream: initialWindow, conn: initialWindow, ofStream: atHalf, ofConn: atHalf}
				p.pause.Store(tc.beginning)
				d := p.dialer(t, 100)
				var broken, stop atomic.Int32
				var all sync.WaitGroup
				for range tc.tunnels {
					c := open(t, d, reads)
					all.Go(func() {
						for stop.Load() == 0 {
							if _, err := c.Write(make([]byte, tc.each)); err != nil {
								broken.Add(1)
								return
							}
							time.Sleep(50 * time.Millisecond)
						}
					})
				}
				if !tc.beginning {
					time.Sleep(3 * time.Second)
				}
				p.pause.Store(true)
				time.Sleep(tc.pause)
				p.pause.Store(false)
				time.Sleep(10 * time.Second)
				stop.Store(1)
				all.Wait()
				if n := int(broken.Load()); n > tc.mayBreak {
					t.Errorf("%d of %d tunnels were reset", n, tc.tunnels)
				}
				if _, late := known(d); late > 0 {
					t.Errorf("the proxy is taken for one that gives %d bytes back at once", late)
				}
			})
		})
	}
}

// Bytes on a slow link are not the fault of a destination, whatever else comes from the
// proxy meanwhile.
func TestH2SlowLink(t *testing.T) {
	for _, download := range []bool{false, true} {
		t.Run(fmt.Sprintf("download %v", download), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { slowLink(t, download) })
		})
	}
}

func slowLink(t *testing.T, download bool) {
	const window, rate = 1 << 20, 250_000
	d := newDialer(t, h2Peers(t, func(p *h2Peer) {
		_ = p.WriteWindowUpdate(0, window-initialWindow)
		var ids []uint32
		for range 3 {
			ids = append(ids, p.acceptStream())
			p.reply(ids[len(ids)-1], "200")
		}
		var mu sync.Mutex // for what is written
		if download {
			go func() {
				for err := error(nil); err == nil; time.Sleep(100 * time.Millisecond) {
					mu.Lock()
					err = p.WriteData(ids[2], false, make([]byte, 1000))
					mu.Unlock()
				}
			}()
		}
		link := make(chan func(), 10_000)
		defer close(link)
		go func() {
			for f := range link {
				f()
			}
		}()
		used := map[uint32]int{} // of the goroutine of the link
		for {
			switch f := p.next().(type) {
			case *http2.PingFrame:
				ping := f.Data
				link <- func() {
					mu.Lock()
					defer mu.Unlock()
					_ = p.WritePing(true, ping)
				}
			case *http2.DataFrame:
				id, n := f.StreamID, len(f.Data())
				link <- func() {
					time.Sleep(time.Duration(n) * time.Second / rate)
					mu.Lock()
					defer mu.Unlock()
					for _, id := range []uint32{0, id} {
						if used[id] += n; used[id] >= window/2 {
							_ = p.WriteWindowUpdate(id, uint32(used[id]))
							used[id] = 0
						}
					}
				}
			}
		}
	}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}))
	a, b, down := open(t, d, reads), open(t, d, reads), open(t, d, reads)
	go func() {
		for buf := make([]byte, 4096); ; {
			if _, err := down.Read(buf); err != nil {
				return
			}
		}
	}()
	var both sync.WaitGroup
	for i := range 2 {
		both.Go(func() {
			if n, err := []interface{ Write([]byte) (int, error) }{a, b}[i].Write(make([]byte, 3<<20)); errors.Is(err, errStalled) {
				t.Errorf("upload %d: %d bytes, %v", i, n, err)
			}
		})
	}
	both.Wait()
	a.Close()
	b.Close()
	down.Close()
	d.Close()
	time.Sleep(time.Minute) // for the link
}
