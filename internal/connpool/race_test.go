package connpool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// This file tests the race of a returned connection against a dial.

// Scenario 5 with a second slot: the waiter takes what comes first, the loser
// is pooled.
func TestIdleReturnsWhileDialing(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 2 }), func(t *testing.T, p *testPool, f *farm) {
		first := get(t, p, f, "k")
		calls := make(chan *call, 1)
		g := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Leased: 1, Dialing: 1, Keys: 1})
		first.Release(0)
		synctest.Wait()
		if !g.isDone() || g.lease.Conn() != first.Conn() || !g.lease.Reused() {
			t.Fatal("waiter did not take the returned connection")
		}
		c := <-calls
		if c.ctx.Err() != nil {
			t.Error("losing dial cancelled")
		}
		c.succeed()
		synctest.Wait()
		wantStats(t, p, Stats{Open: 2, Idle: 1, Leased: 1, Keys: 1})
		l := get(t, p, f, "k")
		if !l.Reused() || l.Conn() == first.Conn() {
			t.Error("the loser was not pooled, or does not know that it was idle")
		}
		l.Discard()
		g.lease.Discard()
	})
}

func TestLosingDialWithoutIdlePoolIsCancelled(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxIdle = 0 }), func(t *testing.T, p *testPool, f *farm) {
		first := get(t, p, f, "k")
		calls := make(chan *call, 1)
		g := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		first.Release(0)
		synctest.Wait()
		if g.lease.Conn() != first.Conn() {
			t.Fatal("waiter did not take the returned connection")
		}
		if (<-calls).ctx.Err() == nil {
			t.Error("dial goes on though its connection would be closed at once")
		}
		g.lease.Discard()
	})
}

func TestReturnedConnectionIsLookedAtBeforeHandover(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		first := get(t, p, f, "k")
		g := goGet(p, "k", wants[*conn]{Dial: f.dial("k")}.req())
		synctest.Wait()
		first.Conn().dead.Store(true)
		first.Release(0)
		synctest.Wait()
		if g.err != nil || g.lease.Reused() {
			t.Errorf("waiter got a dead connection, or %v", g.err)
		}
		g.lease.Discard()
	})
}

func TestAbandonedDialServesTheNext(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 1)
		a := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		b := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		a.cancel()
		synctest.Wait()
		if a.err != context.Canceled {
			t.Errorf("cancelled Get returned %v", a.err)
		}
		c := <-calls
		if c.ctx.Err() != nil {
			t.Fatal("dial cancelled though somebody waits for it")
		}
		c.succeed()
		synctest.Wait()
		if !b.isDone() || b.err != nil || b.lease.Reused() {
			t.Fatalf("the next waiter was not served: %v", b.err)
		}
		b.lease.Discard()
	})
}

func TestAbandonedDialIsNotForThoseWhoRefuseIt(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 2)
		a := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		b := goGet(p, "k", wants[*conn]{
			Dial:   f.slow("k", calls),
			Accept: func(*conn) bool { return false },
		}.req())
		synctest.Wait()
		a.cancel()
		synctest.Wait()
		(<-calls).succeed()
		synctest.Wait()
		if b.isDone() {
			t.Fatal("got a connection that it refuses")
		}
		// The refused connection holds the only slot: it has to go.
		wantStats(t, p, Stats{Open: 1, Dialing: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		if b.err != nil {
			t.Errorf("its own dial: %v", b.err)
		}
		b.lease.Discard()
	})
}

func TestUnwantedDialsAreCancelled(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 3)
		var gs []*getting
		for range 3 {
			gs = append(gs, goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req()))
			synctest.Wait()
		}
		c := []*call{<-calls, <-calls, <-calls}
		live := func(want ...bool) {
			t.Helper()
			for i, w := range want {
				if (c[i].ctx.Err() == nil) != w {
					t.Errorf("dial %d: wanted %v", i, w)
				}
			}
		}
		gs[0].cancel()
		synctest.Wait()
		live(true, true, true) // two others wait, and each may win with it
		gs[1].cancel()
		synctest.Wait()
		live(true, false, true) // one waiter has no use for three
		gs[2].cancel()
		synctest.Wait()
		live(false, false, false)
		wantStats(t, p, Stats{})
	})
}

// A dial may succeed though it was cancelled.
func TestCancelledDialThatSucceedsIsPooled(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		goOn := make(chan struct{})
		g := goGet(p, "k", wants[*conn]{Dial: func(context.Context) (*conn, error) {
			<-goOn
			return f.dial("k")(context.Background())
		}}.req())
		synctest.Wait()
		g.cancel()
		synctest.Wait()
		close(goOn)
		synctest.Wait()
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

func TestFailedDialConcernsOnlyItsRequester(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 1)
		var gs []*getting
		for range 3 {
			gs = append(gs, goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req()))
			synctest.Wait()
		}
		refused := errors.New("refused")
		(<-calls).fail(refused)
		synctest.Wait()
		if gs[0].err != refused {
			t.Errorf("requester got %v", gs[0].err)
		}
		if gs[1].isDone() || gs[2].isDone() {
			t.Error("others got the error")
		}
		(<-calls).succeed()
		synctest.Wait()
		gs[1].lease.Release(0)
		synctest.Wait()
		if gs[2].lease == nil || !gs[2].lease.Reused() {
			t.Error("the third was not served")
		}
		gs[2].lease.Release(0)
	})
}

func TestDialLimit(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxDialsPerKey = 2 }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 5)
		var gs []*getting
		for range 5 {
			gs = append(gs, goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req()))
			synctest.Wait()
		}
		wantStats(t, p, Stats{Open: 2, Dialing: 2, Pending: 3, Keys: 1})
		for i, g := range gs {
			(<-calls).succeed()
			synctest.Wait()
			if !g.isDone() {
				t.Errorf("request %d was overtaken", i)
			}
		}
		for _, g := range gs {
			g.lease.Discard()
		}
	})
}

// Whoever is served in the instant in which its context ends gives back what
// it got.
func TestServedAndCancelledAtOnce(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		for range 100 {
			l := get(t, p, f, "k")
			g := goGet(p, "k", wants[*conn]{Dial: f.dial("k")}.req())
			synctest.Wait()
			go l.Release(0)
			go g.cancel()
			synctest.Wait()
			if g.err == nil {
				g.lease.Release(0)
			} else if g.err != context.Canceled {
				t.Errorf("error %v", g.err)
			}
			wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
		}
	})
}

func TestFreshConnectionOfAnotherIsFresh(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1; c.PendingTimeout = time.Minute }), func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 1)
		a := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		b := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls), MaxIdle: -1}.req())
		synctest.Wait()
		a.cancel()
		synctest.Wait()
		(<-calls).succeed()
		synctest.Wait()
		if !b.isDone() || b.lease.Reused() {
			t.Error("a connection that nobody has used is good for a request that wants a fresh one")
		}
		b.lease.Discard()
	})
}
