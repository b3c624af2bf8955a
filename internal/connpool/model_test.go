package connpool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// This file drives a pool through random histories, one step at a time, in a
// bubble of fake time. After each step everything has come to rest, and the
// invariants of upstream.md §7 must hold, as seen from outside and inside.

// request is a Get of the model, in the order of arrival.
type request struct {
	*getting
	key     string
	class   int // takes connections of this class, 0 takes all
	maxIdle time.Duration
	dialed  bool
	loose   bool // the pool keeps no record of its key; as of the last check
	began   time.Time
}

// takesIdle is what the model thinks of Request.takes.
func (r *request) takesIdle(c *conn, idle time.Duration) bool {
	return r.acceptsClass(c) && (r.maxIdle == 0 || r.maxIdle > 0 && idle < r.maxIdle)
}

func (r *request) acceptsClass(c *conn) bool {
	return r.class == 0 || r.class == c.class
}

// modelDial is a dial of the model under way.
type modelDial struct {
	*call
	by *request
}

type machine struct {
	cfg      Config
	p        *testPool
	f        *farm
	waiting  []*request // not done, in order of arrival
	leased   []*testLease
	dials    []*modelDial
	newDials chan *modelDial
	errDial  error
	others   int // idle connections of other pools in the budget
}

func drawConfig(t *rapid.T) Config {
	n := func(name string, vs ...int) int { return rapid.SampledFrom(vs).Draw(t, name) }
	d := func(name string, vs ...time.Duration) time.Duration { return rapid.SampledFrom(vs).Draw(t, name) }
	cfg := Config{
		MaxConnsPerKey:   n("MaxConnsPerKey", 0, 1, 2, 3),
		MaxConns:         n("MaxConns", 0, 1, 2, 4),
		MaxIdlePerKey:    n("MaxIdlePerKey", 0, 1, 2, 10),
		MaxIdle:          n("MaxIdle", 0, 1, 3, 10),
		IdleTimeout:      d("IdleTimeout", 0, 10*time.Second, time.Minute),
		MaxLifetime:      d("MaxLifetime", 0, 30*time.Second),
		MaxPendingPerKey: n("MaxPendingPerKey", 0, 1, 3, 10),
		MaxPending:       n("MaxPending", 0, 2, 20),
		PendingTimeout:   d("PendingTimeout", 0, 5*time.Second),
		MaxDialsPerKey:   n("MaxDialsPerKey", 0, 1, 2),
		DialTimeout:      d("DialTimeout", 0, 20*time.Second),
		MaxKeys:          n("MaxKeys", 0, 0, 1, 2),
		Shards:           n("Shards", 0, 1, 3),
	}
	if limit := n("Budget", -1, -1, 0, 2, 4); limit >= 0 {
		cfg.Shared = NewBudget(limit)
	}
	return cfg
}

func (m *machine) get(t *rapid.T) {
	r := &request{
		key:     rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"),
		class:   rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "class"),
		maxIdle: rapid.SampledFrom([]time.Duration{0, 0, -1, 2 * time.Second}).Draw(t, "maxIdle"),
		began:   time.Now(),
	}
	calls := make(chan *call, 1)
	slow := m.f.slow(r.key, calls)
	req := wants[*conn]{
		MaxIdle: r.maxIdle,
		Dial: func(ctx context.Context) (*conn, error) {
			go func() { m.newDials <- &modelDial{<-calls, r} }()
			c, err := slow(ctx)
			if c != nil {
				c.class = r.class
			}
			return c, err
		},
		Accept: r.acceptsClass,
		Tag:    r,
	}.req()
	r.getting = goGet(m.p, r.key, req)
	m.waiting = append(m.waiting, r)
}

func pick[T any](t *rapid.T, name string, s []T) (T, int) {
	if len(s) == 0 {
		t.Skip("no " + name)
	}
	i := rapid.IntRange(0, len(s)-1).Draw(t, name)
	return s[i], i
}

func (m *machine) takeLease(t *rapid.T) *testLease {
	l, i := pick(t, "lease", m.leased)
	m.leased = append(m.leased[:i], m.leased[i+1:]...)
	l.Conn().inUse.Store(false)
	return l
}

func (m *machine) takeDial(t *rapid.T) *modelDial {
	d, i := pick(t, "dial", m.dials)
	m.dials = append(m.dials[:i], m.dials[i+1:]...)
	return d
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"get":  m.get,
		"get2": m.get, // rapid has no weights
		"release": func(t *rapid.T) {
			keep := rapid.SampledFrom([]time.Duration{0, 0, 3 * time.Second, -1}).Draw(t, "keep")
			m.takeLease(t).Release(keep)
		},
		"discard":  func(t *rapid.T) { m.takeLease(t).Discard() },
		"discard2": func(t *rapid.T) { m.takeLease(t).Discard() },
		"reclaim": func(t *rapid.T) {
			if m.cfg.Shared == nil {
				t.Skip("no budget")
			}
			idle := m.p.Stats().Idle
			n := rapid.IntRange(1, 3).Draw(t, "reclaim")
			if got := m.cfg.Shared.Reclaim(n); got != min(n, idle) {
				t.Fatalf("reclaimed %d of %d, asked for %d", got, idle, n)
			}
		},
		"connect":  func(t *rapid.T) { m.takeDial(t).succeed() },
		"connect2": func(t *rapid.T) { m.takeDial(t).succeed() },
		"refuse":   func(t *rapid.T) { m.takeDial(t).fail(m.errDial) },
		"cancel": func(t *rapid.T) {
			r, _ := pick(t, "request", m.waiting)
			r.cancel()
		},
		"peer closes": func(t *rapid.T) {
			l, _ := pick(t, "lease", m.leased)
			l.Conn().dead.Store(true)
		},
		"peer closes idle": func(t *rapid.T) {
			for h := range m.p.hosts(hasIdle) {
				h.mu.Lock()
				h.idle.front.item.conn.dead.Store(true)
				h.mu.Unlock()
			}
		},
		"time passes": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 7 * time.Second, time.Minute}).Draw(t, "time"))
		},
		"close idle": func(*rapid.T) { m.p.closeIdle() },
		"":           m.check,
	}
}

// settle lets everything come to rest and takes in what has happened.
func (m *machine) settle(t *rapid.T) {
	synctest.Wait()
	for len(m.newDials) > 0 {
		d := <-m.newDials
		d.by.dialed = true
		m.dials = append(m.dials, d)
	}
	var dials []*modelDial
	for _, d := range m.dials {
		if d.ctx.Err() == nil {
			dials = append(dials, d)
		}
	}
	m.dials = dials
	var still []*request
	for _, r := range m.waiting {
		if !r.isDone() {
			still = append(still, r)
			continue
		}
		m.done(t, r, still)
	}
	m.waiting = still
}

// done takes in the end of a request; earlier are those that came before it
// and still wait.
func (m *machine) done(t *rapid.T, r *request, earlier []*request) {
	var le *LimitError
	switch {
	case r.err == nil:
		c := r.lease.Conn()
		if c.key != r.key {
			t.Fatalf("connection of key %s leased to key %s", c.key, r.key)
		}
		if c.inUse.Swap(true) {
			t.Fatal("connection leased twice")
		}
		if c.closed.Load() {
			t.Fatal("closed connection leased")
		}
		if !r.acceptsClass(c) {
			t.Fatal("connection leased that the request refuses")
		}
		if r.maxIdle < 0 && r.lease.Reused() {
			t.Fatal("used connection leased to a request that wants a fresh one")
		}
		m.leased = append(m.leased, r.lease)
		for _, e := range earlier {
			if r.lease.Reused() && e.key == r.key && !e.loose && e.maxIdle >= 0 && e.acceptsClass(c) {
				t.Fatal("a connection went past an earlier waiter that takes it")
			}
		}
	case errors.As(r.err, &le):
		if le.Timeout && time.Since(r.began) < m.cfg.PendingTimeout {
			t.Fatal("timed out too early")
		}
		if le.Timeout && r.dialed {
			t.Fatal("timed out as pending though it was dialing")
		}
	case errors.Is(r.err, context.Canceled), errors.Is(r.err, m.errDial):
	case r.err == ErrClosed && m.p.closed.Load():
	case errors.Is(r.err, context.DeadlineExceeded):
		if m.cfg.DialTimeout == 0 || !r.dialed {
			t.Fatal("dial timeout without a dial")
		}
	default:
		t.Fatalf("unexpected error %v", r.err)
	}
}

// check is the invariant.
func (m *machine) check(t *rapid.T) {
	m.settle(t)
	m.markLoose(t)
	// First come, first served: on each key, those with a dial come first.
	gap := make(map[string]bool)
	for _, r := range m.waiting {
		if r.loose {
			continue
		} else if !r.dialed {
			gap[r.key] = true
		} else if gap[r.key] {
			t.Fatal("a request dials while an earlier one has no slot")
		}
	}
	s := m.p.Stats()
	if s.Open != m.f.open() || s.Leased != len(m.leased) || s.Dialing != len(m.dials) {
		t.Fatalf("%+v, but %d open, %d leased, %d dialing", s, m.f.open(), len(m.leased), len(m.dials))
	}
	var sum Stats
	blocked := 0
	for h := range m.p.hosts(nil) {
		before := sum
		if m.checkHost(t, h, &sum) {
			blocked++
		}
		own := Stats{Open: sum.Open - before.Open, Idle: sum.Idle - before.Idle, Dialing: sum.Dialing - before.Dialing, Pending: sum.Pending - before.Pending, Keys: 1}
		own.Leased = own.Open - own.Idle - own.Dialing
		if got := m.p.StatsOf(h.key); got != own {
			t.Fatalf("stats of %s %+v, its host has %+v", h.key, got, own)
		}
	}
	if got := m.p.StatsOf("unknown"); got != (Stats{}) {
		t.Fatalf("stats of an unknown key: %+v", got)
	}
	blocked += m.addLoose(&sum)
	sum.Leased = len(m.leased)
	if s != sum {
		t.Fatalf("stats %+v, sum of hosts %+v", s, sum)
	}
	m.checkBudget(t, s)
	if s.Idle > m.cfg.MaxIdle || s.Pending > m.cfg.MaxPending {
		t.Fatalf("above the limits: %+v", s)
	}
	if blocked > 0 && (s.Idle > 0 || s.Open < m.cfg.MaxConns) || blocked != int(m.p.blocked.Load()) {
		t.Fatalf("%d keys (%d) wait for MaxConns beside %+v", blocked, m.p.blocked.Load(), s)
	}
	if s.Idle > 0 && m.p.wakeAt.Load() == 0 {
		t.Fatal("idle connections and no janitor")
	}
}

// markLoose finds out which requests the pool keeps no record of.
func (m *machine) markLoose(t *rapid.T) {
	tracked := make(map[any]bool)
	for h := range m.p.hosts(nil) {
		h.mu.Lock()
		for _, line := range []*list[waiter[string, *conn]]{&h.dialers, &h.pending} {
			for _, w := range line.all() {
				tracked[w.req.By.(requester[*conn]).w.Tag] = true
			}
		}
		h.mu.Unlock()
	}
	for _, r := range m.waiting {
		if r.loose = !tracked[r]; r.loose && m.cfg.MaxKeys == 0 {
			t.Fatal("a request without a record of its key, and no limit of keys")
		}
	}
}

// addLoose adds to the numbers of the keys what no key has, and returns how many
// of these requests wait for MaxConns.
func (m *machine) addLoose(sum *Stats) (blocked int) {
	for _, l := range m.leased {
		if l.host.loose {
			sum.Open++
		}
	}
	for _, r := range m.waiting {
		switch {
		case r.loose && r.dialed:
			sum.Open++
			sum.Dialing++
		case r.loose:
			sum.Pending++
		}
	}
	m.p.blockedMu.Lock()
	defer m.p.blockedMu.Unlock()
	for _, h := range m.p.blockedHosts.all() {
		if h.loose {
			blocked++
		}
	}
	return blocked
}

// checkBudget checks what pools share, and the number of keys.
func (m *machine) checkBudget(t *rapid.T, s Stats) {
	if m.cfg.MaxKeys > 0 && s.Keys > m.cfg.MaxKeys {
		t.Fatalf("%d keys", s.Keys)
	}
	var hosts, idle int
	for range m.p.hosts(hasIdle) {
		hosts++
	}
	for i := range m.p.shards {
		idle += int(m.p.shards[i].idle.Load())
	}
	if idle != hosts {
		t.Fatalf("shards count %d hosts with an idle connection, there are %d", idle, hosts)
	}
	b := m.cfg.Shared
	if b == nil {
		return
	}
	if b.Idle() != s.Idle+m.others {
		t.Fatalf("%d idle in the budget, %d here and %d elsewhere", b.Idle(), s.Idle, m.others)
	}
	if b.max > 0 && s.Idle > max(0, int(b.max)-m.others) {
		t.Fatalf("%d idle here and %d elsewhere, budget %d", s.Idle, m.others, b.max)
	}
}

// checkHost checks one key, adds its numbers to sum, and reports whether it
// waits for MaxConns. All is at rest; the locks are for the race detector.
func (m *machine) checkHost(t *rapid.T, h *host[string, *conn], sum *Stats) (blocked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m.p.blockedMu.Lock()
	blocked = h.blocked.in != nil
	m.p.blockedMu.Unlock()
	sum.Open += h.open
	sum.Idle += h.idle.n
	if h.idle.n > 0 && h.shard.idle.Load() < 1 {
		t.Fatal("its shard knows of no host with an idle connection")
	}
	sum.Dialing += h.dialing
	sum.Pending += h.pending.n
	sum.Keys++
	now := m.p.now()
	if h.dead || h.open == 0 && h.pending.n == 0 {
		t.Fatal("empty host in the map")
	}
	if h.closing != 0 {
		t.Fatal("closing at rest")
	}
	if m.cfg.MaxConnsPerKey > 0 && h.open > m.cfg.MaxConnsPerKey {
		t.Fatal("more connections than the key may have")
	}
	if h.idle.n > m.cfg.MaxIdlePerKey || h.pending.n > m.cfg.MaxPendingPerKey {
		t.Fatal("above the limits of the key")
	}
	if h.abandoned.n > h.dialers.n+h.pending.n {
		t.Fatal("dials that nobody wants")
	}
	m.checkIdle(t, h, now)
	if h.pending.n > 0 && !h.dialsFull() {
		switch {
		case h.full() && h.idle.n > 0:
			t.Fatal("an idle connection has the slot of a waiter")
		case !h.full() && !blocked:
			t.Fatal("a waiter beside a free slot")
		}
	}
	return blocked
}

// checkIdle checks the idle connections of a key. Needs h.mu.
func (m *machine) checkIdle(t *rapid.T, h *host[string, *conn], now time.Duration) {
	var oldest int64
	for _, l := range h.idle.all() {
		if l.conn.closed.Load() || l.conn.inUse.Load() || l.state.Load() != statePooled {
			t.Fatal("idle connection is closed or in use")
		}
		if now > l.expires+2*m.p.slack {
			t.Fatalf("expired %v ago and still open", now-l.expires)
		}
		oldest = int64(l.since)
		for _, r := range m.waiting {
			if r.key == h.key && !r.loose && now < l.expires && r.takesIdle(l.conn, now-l.since) {
				t.Fatal("a waiter beside an idle connection that it takes")
			}
		}
	}
	if h.oldest.Load() != oldest {
		t.Fatal("oldest is wrong")
	}
}

// finish ends the history in one of two ways; nothing must be left.
func (m *machine) finish(t *rapid.T) {
	drain := rapid.Bool().Draw(t, "drain")
	if drain {
		for _, r := range m.waiting {
			r.cancel()
		}
	} else {
		m.p.Close()
	}
	m.settle(t)
	for _, l := range m.leased {
		l.Conn().inUse.Store(false)
		l.Release(0)
	}
	for _, d := range m.dials {
		if d.ctx.Err() == nil {
			d.fail(m.errDial) // one whose connection would have been pooled
		}
	}
	if drain {
		synctest.Wait()
		time.Sleep(2*time.Minute + 2*time.Second) // the janitor does the rest
	}
	synctest.Wait()
	if s := m.p.Stats(); s != (Stats{}) || m.f.open() != 0 {
		t.Fatalf("left at the end: %+v, %d open", s, m.f.open())
	}
	m.p.Close()
}

func TestModel(t *testing.T) {
	rounds := 10 // of rapid's default of 100 histories
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		rapid.Check(t, func(rt *rapid.T) { history(t, rt) })
	}
}

// history runs one history in a bubble of its own. Rapid ends it early by a
// panic, which has to be carried out of the bubble.
func history(t *testing.T, rt *rapid.T) {
	var failure any
	synctest.Test(t, func(*testing.T) {
		defer func() { failure = recover() }()
		cfg := drawConfig(rt)
		tracked := cfg
		if cfg.MaxKeys > 0 {
			tracked.MaxConnsPerKey = 0 // requests without a record have no such limit
		}
		m := &machine{
			cfg: cfg,
			p:   New[string, *conn](cfg),
			f:   newFarm(rt, tracked),
			// large enough never to block
			newDials: make(chan *modelDial, 10_000),
			errDial:  errors.New("refused"),
		}
		if cfg.Shared != nil {
			m.others = rapid.IntRange(0, 3).Draw(rt, "others")
			cfg.Shared.count(int64(m.others))
		}
		defer m.p.Close() // ends what would keep the bubble open
		rt.Repeat(m.actions())
		m.finish(rt)
	})
	if failure != nil {
		panic(failure)
	}
}
