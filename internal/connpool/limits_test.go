package connpool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Scenario 5 with one slot: FIFO, and no connection beyond the limit.
func TestWaitersAreServedInOrder(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		var gs []*getting
		for range 10 {
			gs = append(gs, goGet(p, "k", wants[*conn]{Dial: f.dial("k")}.req()))
			synctest.Wait()
		}
		gs[3].cancel()
		synctest.Wait()
		for i, g := range gs {
			if i == 3 {
				continue
			}
			if i%2 == 0 {
				l.Release(0)
			} else {
				l.Discard() // the slot goes the same way as the connection
			}
			synctest.Wait()
			if !g.isDone() || g.err != nil {
				t.Fatalf("waiter %d was overtaken", i)
			}
			l = g.lease
		}
		l.Release(0)
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

// Those who dial came before those who have no slot.
func TestReturnedConnectionGoesToTheDialingFirst(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 2 }), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		calls := make(chan *call, 1)
		a := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		b := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		l.Release(0)
		synctest.Wait()
		if !a.isDone() || b.isDone() {
			t.Fatal("the later one was served")
		}
		(<-calls).succeed() // the loser of a's race is the next one's gain
		synctest.Wait()
		if !b.isDone() || b.lease.Reused() {
			t.Fatal("the lost dial did not serve the next")
		}
		a.lease.Discard()
		b.lease.Discard()
	})
}

// A returned connection goes to the first waiter that takes it, not past it
// to one that waits for something else.
func TestHandoverAsksAccept(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1 }), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		calls := make(chan *call, 1)
		picky := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls), Accept: func(*conn) bool { return false }}.req())
		synctest.Wait()
		fresh := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls), MaxIdle: -1}.req())
		synctest.Wait()
		easy := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls), MaxIdle: time.Nanosecond}.req())
		synctest.Wait()
		l.Release(0)
		synctest.Wait()
		if !easy.isDone() || picky.isDone() || fresh.isDone() {
			t.Fatal("the wrong waiter was served")
		}
		// Now nobody takes it, and it makes room instead of going idle.
		easy.lease.Release(0)
		synctest.Wait()
		wantStats(t, p, Stats{Open: 1, Dialing: 1, Pending: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		picky.lease.Release(0)
		synctest.Wait()
		(<-calls).succeed()
		synctest.Wait()
		fresh.lease.Release(0)
	})
}

// An idle connection that a request refuses gives it its slot.
func TestRefusedIdleMakesRoomAtTheLimit(t *testing.T) {
	for name, cfg := range map[string]Config{
		"per key": with(func(c *Config) { c.MaxConnsPerKey = 2; c.MaxPending = 0 }),
		"global":  with(func(c *Config) { c.MaxConns = 2; c.MaxPending = 0 }),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
				old, young := get(t, p, f, "k"), get(t, p, f, "k")
				old.Release(0)
				young.Release(0)
				l, err := p.Get(context.Background(), "k", wants[*conn]{Dial: f.dial("k"), MaxIdle: -1}.req())
				if err != nil {
					t.Fatal(err)
				}
				if !old.Conn().closed.Load() || young.Conn().closed.Load() {
					t.Error("not the oldest made room")
				}
				l.Release(0)
			})
		})
	}
}

// Scenario 7: a full queue refuses at once.
func TestQueueLimits(t *testing.T) {
	for _, tt := range []struct {
		scope string
		cfg   Config
		key   string // of the request that is refused
	}{
		{ScopeConnsPerKey, Config{MaxConnsPerKey: 1}, "k"},
		{ScopeConnsPerKey, Config{MaxConnsPerKey: 1, MaxPending: 1}, "k"},
		{ScopeConns, Config{MaxConns: 1, MaxPendingPerKey: 1}, "other"},
		{ScopeDialsPerKey, Config{MaxDialsPerKey: 1}, "k"},
		{ScopePendingPerKey, Config{MaxConnsPerKey: 1, MaxPendingPerKey: 1, MaxPending: 5}, "k"},
		{ScopePending, Config{MaxConns: 1, MaxPendingPerKey: 5, MaxPending: 1}, "other"},
	} {
		t.Run(tt.scope, func(t *testing.T) {
			inBubble(t, tt.cfg, func(t *testing.T, p *testPool, f *farm) {
				calls := make(chan *call, 3)
				goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
				synctest.Wait()
				if tt.cfg.MaxPending > 0 && tt.cfg.MaxPendingPerKey > 0 {
					goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
				}
				synctest.Wait()
				before := p.Stats()
				start := time.Now()
				_, err := p.Get(context.Background(), tt.key, wants[*conn]{Dial: f.slow(tt.key, calls)}.req())
				wantScope(t, err, tt.scope, false)
				if d := time.Since(start); d != 0 {
					t.Errorf("refused after %v", d)
				}
				wantStats(t, p, before)
			})
		})
	}
}

// Scenario 8: no slot is lost by a timeout.
func TestPendingTimeout(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1; c.PendingTimeout = 5 * time.Second }), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		start := time.Now()
		_, err := p.Get(context.Background(), "k", wants[*conn]{Dial: f.dial("k")}.req())
		wantScope(t, err, ScopeTimeout, true)
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("after %v", d)
		}
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})

		// The time of the dial does not count.
		calls := make(chan *call, 1)
		g := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		time.Sleep(4 * time.Second)
		l.Discard()
		time.Sleep(time.Hour)
		if g.isDone() {
			t.Fatalf("gave up while dialing: %v", g.err)
		}
		(<-calls).succeed()
		synctest.Wait()
		if g.err != nil {
			t.Error(g.err)
		}
		g.lease.Release(0)
		get(t, p, f, "k").Release(0)
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

// Who waits only because others are being dialed waits as long as these get on, and is told
// what it has waited for where they do not.
func TestPendingTimeoutBehindDials(t *testing.T) {
	cfg := with(func(c *Config) { c.MaxDialsPerKey = 1; c.PendingTimeout = 5 * time.Second })
	inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
		errRefused := errors.New("refused")
		calls := make(chan *call, 3)
		ask := func() *getting { // the order matters
			defer synctest.Wait()
			return goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		}
		first, second := ask(), ask()
		time.Sleep(8 * time.Second)
		if first.isDone() || second.isDone() {
			t.Fatalf("gave up: %v, %v", first.err, second.err)
		}
		(<-calls).succeed()
		time.Sleep(8 * time.Second)
		third := ask()
		(<-calls).fail(errRefused)
		time.Sleep(4 * time.Second)
		if third.isDone() {
			t.Fatalf("gave up early: %v", third.err)
		}
		synctest.Wait()
		if second.err != errRefused || third.isDone() {
			t.Errorf("%v, %v", second.err, third.err)
		}
		fourth := ask() // third is being dialed
		(<-calls).fail(errRefused)
		synctest.Wait()
		fifth := ask() // fourth is being dialed
		sixth := ask()
		(<-calls).fail(errRefused)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		wantScope(t, sixth.err, ScopeDialsPerKey, true)
		if third.err != errRefused || fourth.err != errRefused {
			t.Errorf("%v, %v", third.err, fourth.err)
		}
		(<-calls).succeed()
		synctest.Wait()
		for _, g := range []*getting{first, fifth} {
			if g.err != nil {
				t.Error(g.err)
			} else {
				g.lease.Release(0)
			}
		}
	})
}

// Scenario 6: each leaves in the same time however many wait.
func TestCancelManyWaiters(t *testing.T) {
	const n = 10_000
	cfg := with(func(c *Config) { c.MaxConnsPerKey = 1; c.MaxPendingPerKey = n; c.MaxPending = n })
	inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
		calls := make(chan *call, 1)
		hung := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		gs := make([]*getting, n)
		for i := range gs {
			gs[i] = goGet(p, "k", wants[*conn]{Dial: f.dial("k")}.req())
		}
		synctest.Wait()
		wantStats(t, p, Stats{Open: 1, Dialing: 1, Pending: n, Keys: 1})
		for i := range gs {
			gs[(i*7919)%n].cancel() // any order
		}
		synctest.Wait()
		for i, g := range gs {
			if g.err != context.Canceled {
				t.Fatalf("waiter %d: %v", i, g.err)
			}
		}
		wantStats(t, p, Stats{Open: 1, Dialing: 1, Keys: 1})
		(<-calls).succeed()
		synctest.Wait()
		hung.lease.Release(0)
	})
}

// The same by its structure: leaving touches the two neighbours in the line and
// nobody else, so that it costs the same however long the line is. All others
// are out of reach while it happens: who walks along the line stumbles.
func TestCancelTouchesNobodyElse(t *testing.T) {
	const n = 1000
	type waiterNode = node[waiter[string, *conn]]
	cfg := with(func(c *Config) { c.MaxConnsPerKey = 1; c.MaxPendingPerKey = n; c.MaxPending = n })
	inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		h := l.host
		accepts := 0
		gs := make([]*getting, n)
		for i := range gs {
			gs[i] = goGet(p, "k", wants[*conn]{Dial: f.dial("k"), Accept: func(*conn) bool { accepts++; return true }}.req())
			synctest.Wait()
		}
		for _, i := range []int{0, 1, n / 2, n - 2, n - 1} {
			h.mu.Lock()
			w := h.pending.all()[slices.IndexFunc(h.pending.all(), func(w *waiter[string, *conn]) bool { return w.ctx == gs[i].ctx })]
			// Cut the line two places from it, and two from its ends.
			cuts := make(map[**waiterNode]*waiterNode)
			cut := func(link **waiterNode) {
				if _, ok := cuts[link]; !ok && *link != nil && (*link).item != nil {
					cuts[link] = *link
					*link = new(waiterNode) // without a waiter
				}
			}
			if a := w.node.prev; a != nil {
				cut(&a.prev)
			}
			if b := w.node.next; b != nil {
				cut(&b.next)
			}
			if a := h.pending.front; a != &w.node && a.next != &w.node {
				cut(&a.next)
			}
			if b := h.pending.back; b != &w.node && b.prev != &w.node {
				cut(&b.prev)
			}
			if len(cuts) == 0 {
				t.Error("the line was not cut")
			}
			h.mu.Unlock()
			gs[i].cancel()
			synctest.Wait()
			h.mu.Lock()
			for link, to := range cuts {
				*link = to
			}
			h.mu.Unlock()
			if gs[i].err != context.Canceled {
				t.Errorf("waiter %d: %v", i, gs[i].err)
			}
		}
		if accepts != 0 {
			t.Errorf("waiters were asked %d times", accepts)
		}
		wantStats(t, p, Stats{Open: 1, Leased: 1, Pending: n - 5, Keys: 1})
		for _, g := range gs {
			g.cancel()
		}
		synctest.Wait()
		l.Release(0)
	})
}

// A waiter that leaves just when it is served gives the connection back, and
// nothing stays in it for who uses it next.
func TestLeaveJustServed(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		w := p.newWaiter(context.Background(), wants[*conn]{}.req())
		l.host.mu.Lock()
		w.settle(l, nil)
		l.host.mu.Unlock()
		p.leave(l.host, w)
		if len(w.done) != 0 {
			t.Error("the next wait would end at once, with nothing")
		}
		p.forget(w)
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

func TestGlobalLimitEvictsIdleOfAnotherKey(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConns = 2; c.MaxPending = 0 }), func(t *testing.T, p *testPool, f *farm) {
		get(t, p, f, "a").Release(0)
		get(t, p, f, "b").Release(0)
		c := get(t, p, f, "c")
		d := get(t, p, f, "d")
		wantStats(t, p, Stats{Open: 2, Leased: 2, Keys: 2})
		_, err := p.Get(context.Background(), "e", wants[*conn]{Dial: f.dial("e")}.req())
		wantScope(t, err, ScopeConns, false)
		c.Release(0)
		get(t, p, f, "e").Release(0)
		d.Release(0)
	})
}

// What one key frees wakes those of others, in the order in which they came.
func TestGlobalLimitWakesOtherKeys(t *testing.T) {
	for _, end := range []string{"discard", "release", "dial fails", "dial cancelled"} {
		t.Run(end, func(t *testing.T) {
			inBubble(t, with(func(c *Config) { c.MaxConns = 1 }), func(t *testing.T, p *testPool, f *farm) {
				calls := make(chan *call, 1)
				holder := goGet(p, "holder", wants[*conn]{Dial: f.slow("holder", calls)}.req())
				synctest.Wait()
				var gs []*getting
				for _, key := range []string{"a", "b", "c"} {
					gs = append(gs, goGet(p, key, wants[*conn]{Dial: f.dial(key)}.req()))
					synctest.Wait()
				}
				gs[1].cancel()
				synctest.Wait()
				c := <-calls
				switch end {
				case "dial fails":
					c.fail(context.DeadlineExceeded)
				case "dial cancelled":
					holder.cancel()
				default:
					c.succeed()
					synctest.Wait()
					if end == "discard" {
						holder.lease.Discard()
					} else {
						holder.lease.Release(0)
					}
				}
				synctest.Wait()
				if !gs[0].isDone() || gs[2].isDone() {
					t.Fatal("not the first in line was served")
				}
				newcomer := goGet(p, "d", wants[*conn]{Dial: f.dial("d")}.req())
				synctest.Wait()
				gs[0].lease.Release(0)
				synctest.Wait()
				if !gs[2].isDone() || newcomer.isDone() {
					t.Fatal("a newcomer overtook the line")
				}
				gs[2].lease.Discard()
				synctest.Wait()
				newcomer.lease.Discard()
				wantStats(t, p, Stats{})
			})
		})
	}
}

// relieve gives back a slot for which it finds nobody: the line may empty
// between its look at the length and its turn.
func TestRelieveGivesBackWhatNobodyWants(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConns = 1 }), func(t *testing.T, p *testPool, f *farm) {
		p.blocked.Store(1)
		go p.relieve()
		for range 100 {
			runtime.Gosched() // it turns round and round
		}
		p.blocked.Store(0)
		synctest.Wait()
		wantStats(t, p, Stats{})
	})
}

// The same if the first key of the line wants none any more.
func TestRelieveOfAKeyThatWantsNothing(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConns = 2 }), func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		l.host.mu.Lock()
		p.block(l.host)
		l.host.mu.Unlock()
		p.after(nil)
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})
		l.Discard()
	})
}

// A key does not pass its slot on to its own waiters beside a line.
func TestGlobalLimitIsFairBetweenKeys(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConns = 1 }), func(t *testing.T, p *testPool, f *farm) {
		a := get(t, p, f, "a")
		b := goGet(p, "b", wants[*conn]{Dial: f.dial("b")}.req())
		synctest.Wait()
		a2 := goGet(p, "a", wants[*conn]{Dial: f.dial("a")}.req())
		synctest.Wait()
		a.Discard()
		synctest.Wait()
		if !b.isDone() || a2.isDone() {
			t.Fatal("the slot stayed with its key")
		}
		b.lease.Discard()
		synctest.Wait()
		a2.lease.Discard()
	})
}

func TestMaxIdlePerKeyDropsTheOldest(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxIdlePerKey = 2 }), func(t *testing.T, p *testPool, f *farm) {
		a, b, c := get(t, p, f, "k"), get(t, p, f, "k"), get(t, p, f, "k")
		a.Release(0)
		b.Release(0)
		c.Release(0)
		wantStats(t, p, Stats{Open: 2, Idle: 2, Keys: 1})
		if !a.Conn().closed.Load() {
			t.Error("the oldest is still open")
		}
	})
}

// Eviction is no exact LRU, but what it takes must be old.
func TestMaxIdleEvictsOldOnes(t *testing.T) {
	const n = 512
	inBubble(t, with(func(c *Config) { c.MaxIdle = n }), func(t *testing.T, p *testPool, f *farm) {
		conns := make([]*conn, 2*n)
		for i := range conns {
			key := fmt.Sprint(i)
			l := get(t, p, f, key)
			conns[i] = l.Conn()
			l.Release(0)
			time.Sleep(time.Millisecond)
			if i >= n/2 && i < n { // keep the first few busy: they are not old
				get(t, p, f, fmt.Sprint(i%8)).Release(0)
			}
		}
		wantStats(t, p, Stats{Open: n, Idle: n, Keys: n})
		var young int
		for _, c := range conns[2*n-n/4:] {
			if c.closed.Load() {
				young++
			}
		}
		if young > n/50 {
			t.Errorf("%d of the %d youngest connections evicted", young, n/4)
		}
	})
}
