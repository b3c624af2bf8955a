package connpool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Connections are opened ahead one at a time, until there are enough.
func TestEnsureIdle(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 1)
		for range 3 {
			p.EnsureIdle("k", 2, f.slow("k", calls)) // one is enough
		}
		synctest.Wait()
		wantStats(t, p, Stats{Open: 1, Dialing: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Idle: 1, Dialing: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Idle: 2, Keys: 1})
		p.EnsureIdle("k", 2, f.slow("k", calls))
		wantStats(t, p, Stats{Open: 2, Idle: 2, Keys: 1})

		l := get(t, p, f, "k")
		p.EnsureIdle("k", 2, f.slow("k", calls))
		synctest.Wait()
		l.Release(0) // comes back before: both stay
		(<-calls).succeed()
		synctest.Wait()
		wantStats(t, p, Stats{Open: 3, Idle: 3, Keys: 1})
	})
}

// A dial ahead that fails ends it until the next call; a request that waits
// takes what a dial ahead brings.
func TestEnsureIdleFailsAndServes(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 1)
		p.EnsureIdle("k", 1, f.slow("k", calls))
		synctest.Wait()
		(<-calls).fail(errors.New("down"))
		synctest.Wait()
		wantStats(t, p, Stats{})
		p.EnsureIdle("k", 1, f.slow("k", calls))
		synctest.Wait()
		g := goGet(p, "k", wants[*conn]{Dial: f.dial("k")}.req())
		synctest.Wait()
		wantStats(t, p, Stats{Open: 1, Dialing: 1, Pending: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		if !g.isDone() || g.err != nil {
			t.Fatal("the waiter was not served")
		}
		g.lease.Release(0)
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

// Nobody loses anything for a connection opened ahead.
func TestEnsureIdleTakesNoPlace(t *testing.T) {
	full := NewBudget(1)
	full.count(1)
	for name, tt := range map[string]struct {
		cfg  Config
		n    int
		keys []string // that have a connection in use
	}{
		"none wanted":      {roomy, 0, nil},
		"keeps none":       {Config{}, 1, nil},
		"limit of the key": {with(func(c *Config) { c.MaxConnsPerKey = 1 }), 1, []string{"k"}},
		"limit of all":     {with(func(c *Config) { c.MaxConns = 1 }), 1, []string{"other"}},
		"limit of keys":    {with(func(c *Config) { c.MaxKeys = 1 }), 1, []string{"other"}},
		"budget":           {with(func(c *Config) { c.Shared = full }), 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tt.cfg, func(t *testing.T, p *testPool, f *farm) {
				for _, key := range tt.keys {
					l := get(t, p, f, key)
					defer l.Discard()
				}
				before := p.Stats()
				p.EnsureIdle("k", tt.n, func(context.Context) (*conn, error) {
					t.Error("dialed")
					return nil, errors.New("no")
				})
				synctest.Wait()
				wantStats(t, p, before)
			})
		})
	}
	t.Run("idle of others", func(t *testing.T) {
		inBubble(t, with(func(c *Config) { c.MaxIdle = 1 }), func(t *testing.T, p *testPool, f *farm) {
			get(t, p, f, "other").Release(0)
			p.EnsureIdle("k", 1, f.dial("k"))
			synctest.Wait()
			wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
		})
	})
}

// A dial that has lost its race will be idle: it counts.
func TestEnsureIdleCountsLosers(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		first := get(t, p, f, "k")
		calls := make(chan *call, 1)
		g := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		first.Release(0) // to g, whose dial goes on
		synctest.Wait()
		p.EnsureIdle("k", 1, f.dial("k"))
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Leased: 1, Dialing: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Leased: 1, Idle: 1, Keys: 1})
		g.lease.Release(0)
	})
}

// Close ends dials ahead, and DialTimeout bounds them.
func TestEnsureIdleEnds(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.DialTimeout = time.Second }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 2)
		p.EnsureIdle("k", 1, f.slow("k", calls))
		time.Sleep(time.Second)
		synctest.Wait()
		if (<-calls).ctx.Err() != context.DeadlineExceeded {
			t.Error("no timeout")
		}
		wantStats(t, p, Stats{})
		p.EnsureIdle("k", 1, f.slow("k", calls))
		synctest.Wait()
		p.Close()
		synctest.Wait()
		if (<-calls).ctx.Err() != context.Canceled {
			t.Error("not cancelled")
		}
		p.EnsureIdle("k", 1, f.slow("k", calls))
		wantStats(t, p, Stats{})
	})
}
