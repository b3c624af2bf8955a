package relay

import (
	"math"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// The rate is that of the last ten seconds, and falls to nothing without anybody who counts.
func TestRecent(t *testing.T) {
	var r recent
	var taken int64
	now := time.Duration(0)
	read := func(d time.Duration, n int64) {
		now += d
		r.note(now, taken)
		taken += n
	}
	expect := func(want float64) {
		t.Helper()
		if got := r.rate(now, taken); math.Abs(got-want) > 25 {
			t.Errorf("after %s: %.1f, want %.1f", now, got, want)
		}
	}
	expect(0)
	read(100*time.Millisecond, 500)
	expect(500) // a second at least
	for range 600 {
		read(100*time.Millisecond, 100)
	}
	expect(1000)
	now += 5 * time.Second
	expect(500)
	now += 5 * time.Second
	expect(0)
	now += time.Hour
	expect(0)
	read(0, 10_000)
	expect(1000)
	now += 9 * time.Second
	read(0, 0)
	expect(1000) // 9 of 10 seconds are over, none of which lies before the burst
	now += 10 * time.Second
	expect(100 * 10 * (1 - float64(now%RateWindow)/float64(RateWindow)))
}

// A relay that is asked before it runs, and one that does nothing, have no rate.
func TestRelay_Rates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := net.Pipe()
		origin, far := net.Pipe()
		r := New(pipeStream{near}, pipeStream{far}, Config{})
		if up, down := r.Rates(); up != 0 || down != 0 {
			t.Error(up, down)
		}
		done := make(chan Result, 1)
		r.Start(func(res Result) { done <- res })
		go func() { _, _ = client.Write(make([]byte, 3000)) }()
		buf := make([]byte, 3000)
		for n := 0; n < len(buf); {
			m, err := origin.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		time.Sleep(2 * time.Second)
		if up, down := r.Rates(); up != 1500 || down != 0 {
			t.Error(up, down)
		}
		time.Sleep(30 * time.Second)
		if up, down := r.Rates(); up != 0 || down != 0 {
			t.Error(up, down)
		}
		r.End(ReasonClosed)
		<-done
		client.Close()
		origin.Close()
	})
}

type pipeStream struct{ net.Conn }

func (p pipeStream) CloseWrite() error { return p.Close() }
