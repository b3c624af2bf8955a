package proxydial

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Ways to send: blocks of up to that many bytes, with pauses of up to so long.
var paces = []struct {
	block int
	pause time.Duration
}{
	{200, 100 * time.Millisecond},
	{4000, 100 * time.Millisecond},
	{64 << 10, time.Second},
	{64 << 10, 300 * time.Millisecond},
	{16 << 10, 30 * time.Millisecond},
	{512 << 10, 2 * time.Second},
	{64 << 10, 10 * time.Second},
	{256 << 10, 20 * time.Second},
}

// Where a proxy gives windows back late, tunnels that pause, or are kept at their share, are
// not taken for stalled ones when one with a slow destination holds the window. The companies
// are a sample: what a proxy tells is not always enough (docs/reliability.md).
func TestH2FastTunnelsBesideASlowOne(t *testing.T) {
	for _, window := range []int{initialWindow, 1 << 20} {
		for _, rule := range []struct {
			name         string
			stream, conn giving
		}{{"all", nearEnd, nearEnd}, {"streams", nearEnd, atHalf}, {"connection", atHalf, nearEnd}} {
			for seed := range uint64(6) {
				t.Run(fmt.Sprintf("%dK/%s late/%d", (window+1)>>10, rule.name, seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := &simParent{stream: window, conn: window, ofStream: rule.stream, ofConn: rule.conn}
						besideASlowOne(t, p.dialer(t, 100), rand.New(rand.NewPCG(seed, 0)))
					})
				})
			}
		}
	}
}

func besideASlowOne(t *testing.T, d *Dialer, rnd *rand.Rand) {
	until := time.Now().Add(50 * time.Second)
	var all sync.WaitGroup
	start := func(host string, after time.Duration) {
		p := paces[rnd.IntN(len(paces))]
		after += time.Duration(rnd.Int64N(int64(20*time.Second))) / 2
		own := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		c := open(t, d, host)
		all.Go(func() {
			time.Sleep(after)
			if err := sendUntil(c, own, p.block, p.pause, until, 5*time.Minute); host == reads && errors.Is(err, errStalled) {
				t.Errorf("blocks of %d each %v: %v", p.block, p.pause, err)
			}
		})
	}
	for range 1 + rnd.IntN(4) {
		start(reads, 0)
	}
	start(slow, 15*time.Second)
	all.Wait()
}

// Beside a tunnel whose destination never reads, the others go on, whatever the windows are
// and whenever they are given back: none waits for longer than 30 s. One of them may be
// reset first (docs/reliability.md).
func TestH2OthersBesideAStalledOne(t *testing.T) {
	const most = 30 * time.Second
	for _, windows := range [][2]int{{initialWindow, initialWindow}, {1 << 20, 1 << 20}, {initialWindow, 1 << 20}, {1 << 20, initialWindow}} {
		for _, rule := range []struct {
			name         string
			stream, conn giving
		}{{"half", atHalf, atHalf}, {"all late", nearEnd, nearEnd}, {"streams late", nearEnd, atHalf}, {"connection late", atHalf, nearEnd}} {
			for others := 1; others <= 6; others++ {
				name := fmt.Sprintf("%dK,%dK/%s/%d", (windows[0]+1)>>10, (windows[1]+1)>>10, rule.name, others)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						p := &simParent{stream: windows[0], conn: windows[1], ofStream: rule.stream, ofConn: rule.conn}
						d, rnd := p.dialer(t, 100), rand.New(rand.NewPCG(uint64(others), 7))
						until := time.Now().Add(time.Minute)
						var all sync.WaitGroup
						stalled := open(t, d, stuck)
						_ = stalled.SetWriteDeadline(until)
						after := time.Duration(others%2) * 10 * time.Second // or before all others
						all.Go(func() {
							time.Sleep(after)
							_, _ = stalled.Write(make([]byte, 4<<20))
						})
						for range others {
							c, pace, own := open(t, d, reads), paces[rnd.IntN(len(paces))], rand.New(rand.NewPCG(rnd.Uint64(), 1))
							all.Go(func() {
								if err := sendUntil(c, own, pace.block, pace.pause, until, most); err != nil && !errors.Is(err, errStalled) {
									t.Errorf("blocks of %d each %v: %v", pace.block, pace.pause, err)
								}
							})
						}
						all.Wait()
					})
				})
			}
		}
	}
}

// sendUntil sends blocks of random sizes with random pauses. None may wait for longer than
// most.
func sendUntil(c net.Conn, rnd *rand.Rand, block int, pause time.Duration, until time.Time, most time.Duration) error {
	for time.Now().Before(until) {
		_ = c.SetWriteDeadline(time.Now().Add(most))
		if _, err := c.Write(make([]byte, 1+rnd.IntN(block))); err != nil {
			return err
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(pause))))
	}
	return nil
}
