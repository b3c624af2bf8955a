package connpool

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// conn is a connection that knows where it belongs and how it is treated.
type conn struct {
	f      *farm
	id     int
	key    string
	class  int // for Accept
	dead   atomic.Bool
	closed atomic.Bool
	inUse  atomic.Bool
	reason atomic.Int32
}

func (c *conn) ClosedFor(r Reason) { c.reason.Store(int32(r)) }

func (c *conn) Alive() bool {
	if c.closed.Load() {
		c.f.t.Errorf("conn %d asked whether it is alive after it was closed", c.id)
	}
	return !c.dead.Load()
}

func (c *conn) Close() error {
	if c.closed.Swap(true) {
		c.f.t.Errorf("conn %d closed twice", c.id)
	}
	c.f.count(c.key, -1)
	return nil
}

// reporter is what connections need to complain: *testing.T or *rapid.T.
type reporter interface{ Errorf(string, ...any) }

// farm makes connections and counts those that are open or being dialed.
type farm struct {
	t                    reporter
	maxPerKey, maxGlobal int

	mu    sync.Mutex
	total int
	made  int
	byKey map[string]int
}

func newFarm(t reporter, cfg Config) *farm {
	return &farm{t: t, maxPerKey: cfg.MaxConnsPerKey, maxGlobal: cfg.MaxConns, byKey: make(map[string]int)}
}

// count notes a connection more or less, and checks the limits.
func (f *farm) count(key string, d int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total += d
	f.byKey[key] += d
	if n := f.byKey[key]; f.maxPerKey > 0 && n > f.maxPerKey {
		f.t.Errorf("%d connections of key %s, limit %d", n, key, f.maxPerKey)
	}
	if f.byKey[key] == 0 {
		delete(f.byKey, key)
	}
	if f.maxGlobal > 0 && f.total > f.maxGlobal {
		f.t.Errorf("%d connections, limit %d", f.total, f.maxGlobal)
	}
}

func (f *farm) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

func (f *farm) make(key string) *conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made++
	return &conn{f: f, id: f.made, key: key}
}

// dial is a Request.Dial that succeeds at once.
func (f *farm) dial(key string) func(context.Context) (*conn, error) {
	return func(context.Context) (*conn, error) {
		f.count(key, 1)
		return f.make(key), nil
	}
}

// call is a dial that ends when the test says so.
type call struct {
	f      *farm
	key    string
	ctx    context.Context
	result chan error
	ended  chan struct{}
}

// succeed, fail: the two ends of a dial.
func (c *call) succeed()       { c.result <- nil; <-c.ended }
func (c *call) fail(err error) { c.result <- err; <-c.ended }

// slow returns a Request.Dial that reports itself on the channel, then waits.
func (f *farm) slow(key string, calls chan<- *call) func(context.Context) (*conn, error) {
	return func(ctx context.Context) (*conn, error) {
		f.count(key, 1)
		c := &call{f: f, key: key, ctx: ctx, result: make(chan error), ended: make(chan struct{})}
		defer close(c.ended)
		calls <- c
		var err error
		select {
		case err = <-c.result:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			f.count(key, -1)
			return nil, err
		}
		return f.make(key), nil
	}
}

// wants is a Request in the words of a test. A nil Accept accepts all.
type wants[C Conn] struct {
	Dial    func(context.Context) (C, error)
	Accept  func(C) bool
	MaxIdle time.Duration
	Tag     any // for the test to know it again
}

func (w wants[C]) req() Request[C] { return Request[C]{By: requester[C]{w}, MaxIdle: w.MaxIdle} }

type requester[C Conn] struct{ w wants[C] }

func (r requester[C]) Dial(ctx context.Context) (C, error) { return r.w.Dial(ctx) }
func (r requester[C]) Accept(c C) bool                     { return r.w.Accept == nil || r.w.Accept(c) }

type (
	testPool  = Pool[string, *conn]
	testLease = Lease[string, *conn]
)

// getting is a Get under way.
type getting struct {
	done   chan struct{}
	lease  *testLease
	err    error
	ctx    context.Context
	cancel context.CancelFunc
}

func (g *getting) isDone() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

func goGet(p *testPool, key string, req Request[*conn]) *getting {
	ctx, cancel := context.WithCancel(context.Background())
	g := &getting{done: make(chan struct{}), ctx: ctx, cancel: cancel}
	go func() {
		defer close(g.done)
		g.lease, g.err = p.Get(ctx, key, req)
	}()
	return g
}

// roomy lets everything happen.
var roomy = Config{
	MaxIdlePerKey: 10, MaxIdle: 100, IdleTimeout: time.Minute,
	MaxPendingPerKey: 100, MaxPending: 1000,
}

func with(f func(*Config)) Config {
	c := roomy
	f(&c)
	return c
}

// inBubble runs a test with fake time, a pool and a farm, and checks at the
// end that closing the pool leaves nothing.
func inBubble(t *testing.T, cfg Config, f func(t *testing.T, p *testPool, f *farm)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p, fm := New[string, *conn](cfg), newFarm(t, cfg)
		f(t, p, fm)
		p.Close()
		synctest.Wait()
		if s := p.Stats(); s != (Stats{}) {
			t.Errorf("after Close: %+v", s)
		}
		if n := fm.open(); n != 0 {
			t.Errorf("after Close %d connections are open", n)
		}
	})
}

func get(t testing.TB, p *testPool, f *farm, key string) *testLease {
	t.Helper()
	l, err := p.Get(context.Background(), key, wants[*conn]{Dial: f.dial(key)}.req())
	if err != nil {
		t.Fatalf("Get(%s): %v", key, err)
	}
	return l
}

func wantStats(t testing.TB, p *testPool, want Stats) {
	t.Helper()
	if got := p.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func wantScope(t testing.TB, err error, scope string, timeout bool) {
	t.Helper()
	var le *LimitError
	if !errors.As(err, &le) || le.Scope != scope || le.Timeout != timeout {
		t.Errorf("error %v, want LimitError %s", err, scope)
	}
}

func TestReuseIsLIFOAndPerKey(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		a, b, other := get(t, p, f, "k"), get(t, p, f, "k"), get(t, p, f, "other")
		if a.Reused() || b.Reused() {
			t.Error("fresh connections called reused")
		}
		wantStats(t, p, Stats{Open: 3, Leased: 3, Keys: 2})
		ca, cb := a.Conn(), b.Conn()
		a.Release(0)
		b.Release(0)
		other.Release(0)
		wantStats(t, p, Stats{Open: 3, Idle: 3, Keys: 2})
		l := get(t, p, f, "k")
		if l.Conn() != cb || !l.Reused() {
			t.Error("not the most recently used one")
		}
		if l2 := get(t, p, f, "k"); l2.Conn() != ca {
			t.Error("not the second one")
		} else {
			l2.Discard()
		}
		l.Discard()
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

func TestEndOfLeaseOnlyOnce(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		l := get(t, p, f, "k")
		l.Release(0)
		l.Release(0)
		l.Discard()
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
		l = get(t, p, f, "k")
		l.Discard()
		l.Discard()
		l.Release(0)
		wantStats(t, p, Stats{})
	})
}

func TestDeadConnectionsAreReplaced(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		a, b, c := get(t, p, f, "k"), get(t, p, f, "k"), get(t, p, f, "k")
		alive := a.Conn()
		b.Conn().dead.Store(true)
		c.Conn().dead.Store(true)
		a.Release(0)
		b.Release(0)
		c.Release(0)
		if l := get(t, p, f, "k"); l.Conn() != alive {
			t.Error("a dead connection or a new one was returned")
		} else {
			alive.dead.Store(true)
			l.Release(0)
		}
		l := get(t, p, f, "k")
		if l.Reused() {
			t.Error("reused a dead connection")
		}
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})
		l.Discard()
	})
}

func TestZeroConfigKeepsNothing(t *testing.T) {
	for name, cfg := range map[string]Config{
		"zero":          {},
		"negative":      {MaxIdle: -1, MaxConns: -1, MaxPending: -1, IdleTimeout: -1},
		"no timeout":    {MaxIdle: 1, MaxIdlePerKey: 1},
		"none per key":  {MaxIdle: 1, IdleTimeout: time.Minute},
		"none of all":   {MaxIdlePerKey: 1, IdleTimeout: time.Minute},
		"negative keep": roomy,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, cfg, func(t *testing.T, p *testPool, f *farm) {
				l := get(t, p, f, "k")
				l.Release(-1)
				wantStats(t, p, Stats{})
				if f.open() != 0 {
					t.Error("not closed")
				}
			})
		})
	}
}

func TestContext(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 1; c.DialTimeout = time.Second }), func(t *testing.T, p *testPool, f *farm) {
		cause := errors.New("the client went away")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		if _, err := p.Get(ctx, "k", wants[*conn]{Dial: f.dial("k")}.req()); err != cause {
			t.Errorf("dead context: %v", err)
		}
		wantStats(t, p, Stats{})

		type ctxKey struct{}
		ctx, cancel = context.WithCancelCause(context.WithValue(context.Background(), ctxKey{}, "v"))
		time.AfterFunc(time.Millisecond, func() { cancel(cause) })
		calls := make(chan *call, 1)
		if _, err := p.Get(ctx, "k", wants[*conn]{Dial: f.slow("k", calls)}.req()); err != cause {
			t.Errorf("context ends while dialing: %v", err)
		}
		if v := (<-calls).ctx.Value(ctxKey{}); v != "v" {
			t.Errorf("dial does not see the values of the context: %v", v)
		}
		synctest.Wait()
		wantStats(t, p, Stats{})

		_, err := p.Get(context.Background(), "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial timeout: %v", err)
		}
	})
}

func TestAcceptRefusedStaysIdle(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		a := get(t, p, f, "k")
		ca := a.Conn()
		a.Release(0)
		l, err := p.Get(context.Background(), "k", wants[*conn]{
			Dial:   f.dial("k"),
			Accept: func(c *conn) bool { return c != ca },
		}.req())
		if err != nil || l.Conn() == ca {
			t.Fatalf("got the refused connection, or %v", err)
		}
		wantStats(t, p, Stats{Open: 2, Idle: 1, Leased: 1, Keys: 1})
		if other := get(t, p, f, "k"); other.Conn() != ca {
			t.Error("the refused connection is gone")
		} else {
			other.Discard()
		}
		l.Discard()
	})
}

func TestMaxIdleAge(t *testing.T) {
	for _, tt := range []struct {
		name    string
		maxIdle time.Duration
		age     time.Duration
		reused  bool
	}{
		{"any", 0, 50 * time.Second, true},
		{"young enough", 2 * time.Second, 2*time.Second - 1, true},
		{"exactly too old", 2 * time.Second, 2 * time.Second, false},
		{"only fresh", -1, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
				get(t, p, f, "k").Release(0)
				time.Sleep(tt.age)
				l, err := p.Get(context.Background(), "k", wants[*conn]{Dial: f.dial("k"), MaxIdle: tt.maxIdle}.req())
				if err != nil || l.Reused() != tt.reused {
					t.Errorf("reused %v, error %v", l.Reused(), err)
				}
				l.Discard()
			})
		})
	}
}

func TestCloseSemantics(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 2 }), func(t *testing.T, p *testPool, f *farm) {
		get(t, p, f, "idle").Release(0)
		leased := get(t, p, f, "k")
		calls := make(chan *call, 2)
		dialing := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		waiting := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		wantStats(t, p, Stats{Open: 3, Idle: 1, Leased: 1, Dialing: 1, Pending: 1, Keys: 2})
		p.Close()
		p.Close()
		synctest.Wait()
		if dialing.err != ErrClosed || waiting.err != ErrClosed {
			t.Errorf("waiters got %v and %v", dialing.err, waiting.err)
		}
		if (<-calls).ctx.Err() == nil {
			t.Error("dial not cancelled")
		}
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})
		if _, err := p.Get(context.Background(), "k", wants[*conn]{Dial: f.dial("k")}.req()); err != ErrClosed {
			t.Errorf("Get after Close: %v", err)
		}
		if leased.Conn().closed.Load() {
			t.Error("leased connection closed under its user")
		}
		leased.Release(0)
		if !leased.Conn().closed.Load() {
			t.Error("leased connection not closed at Release")
		}
	})
}

func TestCloseIdle(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		leased := get(t, p, f, "a")
		get(t, p, f, "a").Release(0)
		get(t, p, f, "b").Release(0)
		p.closeIdle()
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})
		leased.Release(0)
		wantStats(t, p, Stats{Open: 1, Idle: 1, Keys: 1})
	})
}

// A pool that is retired serves those who still ask, and keeps nothing for others:
// neither what comes back nor what a dial brings that has lost its race.
func TestRetire(t *testing.T) {
	inBubble(t, with(func(c *Config) { c.MaxConnsPerKey = 2 }), func(t *testing.T, p *testPool, f *farm) {
		leased, other := get(t, p, f, "k"), get(t, p, f, "other")
		get(t, p, f, "idle").Release(0)
		calls := make(chan *call, 2)
		losing := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		dialing := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		p.Retire()
		wantStats(t, p, Stats{Open: 3, Leased: 2, Dialing: 1, Pending: 1, Keys: 2})
		leased.Release(0)
		synctest.Wait()
		if losing.lease == nil || losing.lease.Conn() != leased.Conn() {
			t.Error("a waiter did not get what came back")
		}
		other.Release(0)
		if !other.Conn().closed.Load() {
			t.Error("what came back was kept")
		}
		(<-calls).succeed() // asked for by the first, and there is another who waits
		synctest.Wait()
		if dialing.lease == nil {
			t.Fatalf("the second waiter got %v", dialing.err)
		}
		losing.lease.Release(0)
		dialing.lease.Release(0)
		l := get(t, p, f, "k")
		if l.Reused() {
			t.Error("something was kept")
		}
		l.Release(0)
		wantStats(t, p, Stats{})
	})
}

// A dial that nobody waits for any more when the pool is retired leaves nothing.
func TestRetireWhileALoserDials(t *testing.T) {
	inBubble(t, roomy, func(t *testing.T, p *testPool, f *farm) {
		leased := get(t, p, f, "k")
		calls := make(chan *call, 1)
		winner := goGet(p, "k", wants[*conn]{Dial: f.slow("k", calls)}.req())
		synctest.Wait()
		leased.Release(0) // the waiter takes it, its dial goes on
		synctest.Wait()
		p.Retire()
		(<-calls).succeed()
		synctest.Wait()
		wantStats(t, p, Stats{Open: 1, Leased: 1, Keys: 1})
		winner.lease.Release(0)
		wantStats(t, p, Stats{})
	})
}

// A pool that is retired and used by nobody is garbage at once: no timer holds it, and
// what its dials refer to.
func TestRetiredIsGarbage(t *testing.T) {
	retired := func() weak.Pointer[Pool[int, *nopConn]] {
		p := New[int, *nopConn](roomy)
		l, err := p.Get(t.Context(), 1, wants[*nopConn]{Dial: func(context.Context) (*nopConn, error) { return new(nopConn), nil }}.req())
		if err != nil {
			t.Fatal(err)
		}
		l.Release(0) // which arms the janitor
		p.Retire()
		return weak.Make(p)
	}()
	for deadline := time.Now().Add(10 * time.Second); retired.Value() != nil; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("something holds a retired pool")
		}
	}
}

func TestLimitErrorMessages(t *testing.T) {
	for _, tt := range []struct {
		err  LimitError
		want string
	}{
		{LimitError{Scope: ScopeConnsPerKey}, "connection limit reached (max_conns_per_host)"},
		{LimitError{Scope: ScopeTimeout, Timeout: true}, "no connection became free in time (pending_timeout)"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

// richKey has what keys of the transport have: strings, addresses, pointers.
type richKey struct {
	path, scheme string
	addr         netip.AddrPort
	tls          *int
}

type nopConn struct{}

func (*nopConn) Alive() bool  { return true }
func (*nopConn) Close() error { return nil }

func TestReuseAllocatesNothing(t *testing.T) {
	p := New[richKey, *nopConn](with(func(c *Config) {
		c.MaxConnsPerKey, c.MaxConns, c.MaxLifetime = 64, 1000, 10*time.Minute
	}))
	defer p.Close()
	key := richKey{"direct", "http", netip.MustParseAddrPort("[2001:db8::1]:80"), new(int)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := wants[*nopConn]{
		Dial:    func(context.Context) (*nopConn, error) { return new(nopConn), nil },
		Accept:  func(*nopConn) bool { return true },
		MaxIdle: time.Minute,
	}.req()
	n := testing.AllocsPerRun(1000, func() {
		l, err := p.Get(ctx, key, req)
		if err != nil {
			t.Fatal(err)
		}
		l.Release(30 * time.Second)
	})
	if n != 0 {
		t.Errorf("%v allocations for Get and Release", n)
	}
}
