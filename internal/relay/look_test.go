package relay

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a stream whose writes return long before its peer has taken the bytes.
type slow struct {
	*fake
	unsent atomic.Int64
}

func (s *slow) Unsent() int { return int(s.unsent.Load()) }

// A tunnel is not idle while a peer takes what was written to it, however long its
// stream takes and delivers nothing. One whose peer has stopped is, in time.
func TestSlowReaderIsNotIdle(t *testing.T) {
	for _, limit := range []Reason{ReasonIdle, ReasonHalfClose} {
		for _, reader := range []Reason{ReasonClient, ReasonOrigin} {
			t.Run(limit.String()+"_"+reader.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cfg := Config{IdleTimeout: time.Minute}
					if limit == ReasonHalfClose {
						cfg = Config{HalfCloseTimeout: time.Minute}
					}
					c, o := fakeLink(t), fakeLink(t)
					s := new(slow)
					from := c
					var r *Relay
					if reader == ReasonClient {
						s.fake, from = c.near.(*fake), o
						r = New(s, o.near, cfg)
					} else {
						s.fake = o.near.(*fake)
						r = New(c.near, s, cfg)
					}
					results := make(chan Result, 1)
					r.Start(func(res Result) { results <- res })
					s.unsent.Store(1 << 20)
					mustWrite(t, from.far, "x")
					from.far.CloseWrite()
					// It takes bytes for ten minutes, every 20 s.
					for range 30 {
						time.Sleep(20 * time.Second)
						s.unsent.Add(-1000)
					}
					res := <-results
					// The last look that saw bytes was at 10 minutes, or half a minute
					// later at most.
					if res.Reason != limit || res.Duration < 11*time.Minute || res.Duration > 12*time.Minute {
						t.Errorf("ended for %v after %v", res.Reason, res.Duration)
					}
				})
			})
		}
	}
}

// A peer that takes nothing is not waited for any longer than one with nothing to take.
func TestStuckReaderIsIdleInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, o := fakeLink(t), fakeLink(t)
		s := &slow{fake: c.near.(*fake)}
		r := New(s, o.near, Config{IdleTimeout: time.Minute})
		results := make(chan Result, 1)
		r.Start(func(res Result) { results <- res })
		time.Sleep(10 * time.Second)
		s.unsent.Store(1 << 20)
		mustWrite(t, o.far, "x")
		time.Sleep(20 * time.Second)
		s.unsent.Add(-1000) // what its buffers take at first
		if res := <-results; res.Reason != ReasonIdle || res.Duration != 70*time.Second {
			t.Errorf("ended for %v after %v; want idle after 70 s", res.Reason, res.Duration)
		}
	})
}
