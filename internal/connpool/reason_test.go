package connpool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// told is why a connection was closed.
func (c *conn) told() string {
	if !c.closed.Load() {
		return "open"
	}
	return Reason(c.reason.Load()).String()
}

// A connection is told why the pool closes it.
func TestReasons(t *testing.T) {
	small := with(func(c *Config) { c.MaxIdlePerKey = 1 })
	lived := with(func(c *Config) { c.MaxLifetime = 10 * time.Second })
	for want, tt := range map[string]struct {
		cfg Config
		end func(t *testing.T, p *testPool, f *farm, l *testLease)
	}{
		"discarded": {roomy, func(_ *testing.T, _ *testPool, _ *farm, l *testLease) { l.Discard() }},
		"idle": {roomy, func(_ *testing.T, _ *testPool, _ *farm, l *testLease) {
			l.Release(0)
			time.Sleep(2 * roomy.IdleTimeout)
		}},
		"lifetime": {lived, func(_ *testing.T, _ *testPool, _ *farm, l *testLease) {
			l.Release(0)
			time.Sleep(20 * time.Second)
		}},
		"dead": {roomy, func(t *testing.T, p *testPool, f *farm, l *testLease) {
			l.Release(0)
			l.Conn().dead.Store(true)
			get(t, p, f, "k").Discard()
		}},
		"evicted": {small, func(t *testing.T, p *testPool, f *farm, l *testLease) {
			other := get(t, p, f, "k")
			l.Release(0)
			other.Release(0)
		}},
		"retired": {roomy, func(_ *testing.T, p *testPool, _ *farm, l *testLease) {
			l.Release(0)
			p.Retire()
		}},
	} {
		t.Run(want, func(t *testing.T) {
			inBubble(t, tt.cfg, func(t *testing.T, p *testPool, f *farm) {
				l := get(t, p, f, "k")
				c := l.Conn()
				tt.end(t, p, f, l)
				synctest.Wait()
				if got := c.told(); got != want {
					t.Errorf("closed for %s", got)
				}
			})
		})
	}
	t.Run("lifetime of one in use", func(t *testing.T) {
		inBubble(t, lived, func(t *testing.T, p *testPool, f *farm) {
			l := get(t, p, f, "k")
			time.Sleep(20 * time.Second)
			l.Release(0)
			if got := l.Conn().told(); got != "lifetime" {
				t.Errorf("closed for %s", got)
			}
		})
	})
	t.Run("retired while in use", func(t *testing.T) {
		inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
			l := get(t, p, f, "k")
			p.Retire()
			l.Release(0)
			if got := l.Conn().told(); got != "retired" {
				t.Errorf("closed for %s", got)
			}
		})
	})
}

// queuer is a Requester that is told how long it has waited.
type queuer struct {
	requester[*conn]
	queued []time.Duration
}

func (q *queuer) Queued(d time.Duration) { q.queued = append(q.queued, d) }

// Who has waited for a slot is told how long, also in vain, and without the time of a dial;
// who need not wait is told nothing.
func TestQueued(t *testing.T) {
	cfg := with(func(c *Config) { c.MaxConnsPerKey = 1; c.PendingTimeout = 3 * time.Second })
	inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
		slow := func(ctx context.Context) (*conn, error) {
			time.Sleep(time.Minute) // of the dial: it is no wait
			return f.dial("k")(ctx)
		}
		q := &queuer{requester: requester[*conn]{wants[*conn]{Dial: slow}}}
		take := func() (*testLease, error) { return p.Get(t.Context(), "k", Request[*conn]{By: q}) }
		l, err := take()
		if err != nil || len(q.queued) > 0 {
			t.Fatal(err, q.queued)
		}
		for i, end := range []func(){l.Discard, func() { l.Release(0) }} {
			time.AfterFunc(time.Duration(i+1)*time.Second, end)
			if l, err = take(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := take(); err == nil {
			t.Error("there was a slot")
		}
		want := []time.Duration{time.Second, 2 * time.Second, 3 * time.Second}
		if len(q.queued) != 3 || q.queued[0] != want[0] || q.queued[1] != want[1] || q.queued[2] != want[2] {
			t.Errorf("waits of %v, want %v", q.queued, want)
		}
		l.Discard()
	})
}
