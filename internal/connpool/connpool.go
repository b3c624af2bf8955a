package connpool

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is what the pool needs of a connection.
type Conn interface {
	// Alive looks at the connection before it is used again and must not
	// block. It is false when the peer has closed the connection or has sent
	// something nobody asked for. The pool calls it from one goroutine at a
	// time, and only while nobody else uses the connection.
	Alive() bool

	// Close closes the connection. The pool calls it once; the slot is free
	// when it returns, so it should not take long. Its error is ignored.
	Close() error
}

// Config is what the user of a pool chooses. The zero value keeps no
// connection idle, lets nobody wait and limits nothing. Negative numbers and
// durations count as 0.
type Config struct {
	// MaxConnsPerKey is the most connections of one key: leased, idle,
	// being dialed and being closed. Default: 0, no limit.
	// As in net/http's Transport.MaxConnsPerHost.
	MaxConnsPerKey int

	// MaxConns is the same for all keys together. Before it makes anybody
	// wait, an idle connection of another key is closed. Default: 0, no limit.
	MaxConns int

	// MaxIdlePerKey is the most idle connections of one key; above it the
	// oldest is closed. Default: 0, keep none idle (net/http means 2 by 0).
	MaxIdlePerKey int

	// MaxIdle is the most idle connections of all keys; above it one that
	// has not been used for long is closed. Which one is found by sampling
	// and so approximates LRU; see evict. The number may be exceeded for the
	// moment that finding one takes. Default: 0, keep none idle.
	MaxIdle int

	// IdleTimeout is how long a connection may be idle. It is never taken
	// after that, and is closed soon after: at most 1/16 of the timeout or
	// one second later, whichever is less. Default: 0, keep none idle.
	// As in net/http's Transport.IdleConnTimeout, where 0 is no limit.
	IdleTimeout time.Duration

	// MaxLifetime is how long after its dial a connection is given to
	// requests, ±10%, drawn for each connection so that those dialed
	// together do not end together. A lease in progress is not cut.
	// Default: 0, no limit. As in database/sql's SetConnMaxLifetime.
	MaxLifetime time.Duration

	// MaxPendingPerKey is how many requests for one key may wait for a slot;
	// those whose dial is under way have one and do not count.
	// Default: 0, nobody may wait. As in Envoy's max_pending_requests.
	MaxPendingPerKey int

	// MaxPending is the same for all keys together. Default: 0, nobody may
	// wait.
	MaxPending int

	// PendingTimeout is how long a request may wait for a slot; the time of
	// its dial does not count, and where only MaxDialsPerKey is in its way, it
	// waits longer, as long as no dial of its key fails meanwhile.
	// Default: 0, until its context ends.
	// As in HAProxy's "timeout queue".
	PendingTimeout time.Duration

	// MaxDialsPerKey is how many dials of one key may be under way. A request
	// above it waits as for a slot. Default: 0, no limit.
	MaxDialsPerKey int

	// DialTimeout bounds each dial. Default: 0, none.
	DialTimeout time.Duration

	// MaxKeys is the most keys that the pool keeps track of: those with a
	// connection or a waiter. Above it, an idle connection that has not been
	// used for long is closed to make room; where that does not help, the
	// request is served without a record of its key: its connection is its
	// own, is closed when it is given back, and MaxConnsPerKey,
	// MaxPendingPerKey and MaxDialsPerKey do not see it. Default: 0, no limit.
	MaxKeys int

	// Shards is into how many parts the map of keys is divided, so that
	// those who look up different keys seldom meet. 1 makes a pool for one or
	// few keys small. Rounded up to a power of two. Default: 0, which is 64.
	Shards int

	// Shared limits the idle connections of several pools together.
	// Default: nil, no limit.
	Shared *Budget
}

// Requester is who asks for a connection. It is an interface rather than a
// pair of functions so that asking allocates nothing.
type Requester[C Conn] interface {
	// Dial opens a connection. It runs in a goroutine of its own, without any
	// lock, may run on when Get has returned, and must not panic. Its context
	// has the values of Get's context but not its end: it is cancelled after
	// Config.DialTimeout, when nobody wants the result any more, when the
	// pool closes, and when Dial returns.
	//
	// A connection that has a method Waited() time.Duration tells with it for how
	// long it had been idle when it was returned. If that is not 0, it counts as
	// used before. One that has a method ClosedFor(Reason) is told why the pool closes it.
	//
	// A Requester that has a method Queued(time.Duration) is told for how long it has
	// waited for a slot, in the goroutine of Get and before that returns, if it had to.
	Dial(context.Context) (C, error)

	// Accept is asked before a connection that this request did not dial is
	// given to it: the place to apply the access rules of the request. One it
	// refuses stays for others.
	//
	// It is called with a lock held and also from other goroutines while Get
	// waits, though never after Get has returned: it must be quick, must not
	// panic and must not use the pool.
	Accept(C) bool
}

// Request says how one caller of Get wants its connection.
type Request[C Conn] struct {
	// By is who asks. Required.
	By Requester[C]

	// MaxIdle takes only connections that have been idle for less than this.
	// A connection that another request gives back has been idle for no time.
	// 0: any; negative: only one that was never used before.
	MaxIdle time.Duration
}

// takes reports whether the request wants a connection of somebody else that
// has been idle for the given time.
func (r *Request[C]) takes(conn C, reused bool, idle time.Duration) bool {
	if r.MaxIdle < 0 && reused || r.MaxIdle > 0 && idle >= r.MaxIdle {
		return false
	}
	return r.By.Accept(conn)
}

// ErrClosed is returned by Get when the pool is closed, before or while it
// waits.
var ErrClosed = errors.New("connection pool is closed")

// Scopes of a LimitError.
const (
	ScopeConns         = "max_conns"
	ScopeConnsPerKey   = "max_conns_per_host"
	ScopeDialsPerKey   = "max_dials_per_host"
	ScopePending       = "max_pending"
	ScopePendingPerKey = "max_pending_per_host"
	ScopeTimeout       = "pending_timeout"
)

// LimitError is returned by Get, as a *LimitError, when a limit of the pool and
// not the peer is in the way.
type LimitError struct {
	// Scope is the setting that was reached: one of the Scope constants. It
	// is the limit on connections or dials where nobody may wait, and the
	// limit of the queue where that is full.
	Scope string

	// Timeout tells that the request had waited for Config.PendingTimeout. The
	// scope is ScopeDialsPerKey then if it waited for nothing but dials of others,
	// and one of these had failed.
	Timeout bool
}

// Error implements error.
func (e *LimitError) Error() string {
	if e.Timeout && e.Scope == ScopeDialsPerKey {
		return fmt.Sprintf("no connection that is being dialed was ready in time (%s)", e.Scope)
	}
	if e.Timeout {
		return fmt.Sprintf("no connection became free in time (%s)", e.Scope)
	}
	return fmt.Sprintf("connection limit reached (%s)", e.Scope)
}

// Stats counts what a pool holds. The numbers are read one after another, so
// in a busy pool they need not add up.
type Stats struct {
	Open    int // slots in use: Idle + Leased + Dialing
	Idle    int // idle connections
	Leased  int // connections handed out, and those just being closed
	Dialing int // dials under way
	Pending int // requests waiting for a slot
	Keys    int // keys with a connection or a waiter, at most MaxKeys
}

// Pool is a keyed pool of connections. Its methods may be called at any time
// from any goroutine.
type Pool[K comparable, C Conn] struct {
	cfg   Config
	epoch time.Time     // zero of all time.Durations that stand for a moment
	slack time.Duration // how inexact the janitor may be to run less often
	seed  maphash.Seed

	shards []shard[K, C] // a power of two of them

	waiters sync.Pool // of *waiter[K, C]; of each pool its own, for synctest's sake

	closed  atomic.Bool
	retired atomic.Bool
	done    chan struct{} // closed with the pool, for those that no key leads to
	keys    atomic.Int64  // hosts in the shards
	wakeAt  atomic.Int64  // when the janitor's timer fires; 0: it is not armed
	blocked atomic.Int64  // length of blockedHosts
	pending atomic.Int64
	dialing atomic.Int64
	open    atomic.Int64

	timerMu sync.Mutex
	timer   *time.Timer // guarded by timerMu

	blockedMu    sync.Mutex
	blockedHosts list[host[K, C]] // guarded by blockedMu; keys that wait for MaxConns

	_    [64]byte // idle changes with every request, what is above does not
	idle atomic.Int64
}

// New returns an empty pool. It starts no goroutine: Close is needed to close
// its connections, not to free the pool.
func New[K comparable, C Conn](cfg Config) *Pool[K, C] {
	for _, n := range []*int{
		&cfg.MaxConnsPerKey, &cfg.MaxConns, &cfg.MaxIdlePerKey, &cfg.MaxIdle,
		&cfg.MaxPendingPerKey, &cfg.MaxPending, &cfg.MaxDialsPerKey, &cfg.MaxKeys,
	} {
		*n = max(*n, 0)
	}
	p := &Pool[K, C]{
		cfg: cfg,
		// A moment is never 0, which stands for "none".
		epoch: time.Now().Add(-time.Nanosecond),
		// A connection may have to wait for it twice: in arm and in sweep.
		slack:  min(max(cfg.IdleTimeout/32, time.Millisecond), time.Second/2),
		seed:   maphash.MakeSeed(),
		shards: make([]shard[K, C], shardsFor(cfg.Shards)),
		done:   make(chan struct{}),
	}
	cfg.Shared.add(memberOf(p))
	return p
}

// Get returns a connection of the key: an idle one, the most recently used
// first, or whichever comes first of one that another request gives back and
// one that req.By dials. The caller owns it until it calls Release or
// Discard on the lease, exactly once.
//
// The error is the context's cause when ctx ends first, ErrClosed, a
// *LimitError, or what Dial returned to this call.
//
// Get and Release of an idle connection allocate nothing, and neither does a
// wait for a connection that somebody else gives back, but for the first few.
func (p *Pool[K, C]) Get(ctx context.Context, key K, req Request[C]) (*Lease[K, C], error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for {
		h := p.lockHost(key)
		if p.closed.Load() {
			p.unlock(h)
			return nil, ErrClosed
		}
		l, stale := h.takeIdle(&req, p.now())
		if l == nil && len(stale) == 0 {
			return p.join(ctx, h, req) // still in the same critical section
		}
		p.unlock(h)
		p.after(stale)
		if l == nil {
			continue // the slots of the expired ones are free now
		}
		if l.conn.Alive() {
			l.state.Store(stateLeased)
			return l, nil
		}
		p.discard(l, Dead)
	}
}

// Retire ends the keeping of idle connections: those that are idle are closed, and
// from now on none becomes idle. Requests are served as before, so that those who
// still use the pool can end in peace.
func (p *Pool[K, C]) Retire() {
	// Whoever makes a connection idle has the lock of its host and has seen the
	// pool in use: closeIdle, which waits for that lock, finds it.
	p.retired.Store(true)
	p.closeIdle()
	p.stopJanitor() // its timer would keep the pool, and all that Dial refers to, from being garbage
}

// Drop closes the idle connections that unfit names. It is called with a lock held, as Accept
// is. One that is leased, or being given back, is for Accept to refuse.
func (p *Pool[K, C]) Drop(unfit func(K, C) bool) { p.closeThose(Discarded, unfit) }

// closeIdle closes the connections that are idle now.
func (p *Pool[K, C]) closeIdle() { p.closeThose(Retired, nil) }

// closeThose closes the connections that are idle now and that unfit names, nil for all.
func (p *Pool[K, C]) closeThose(reason Reason, unfit func(K, C) bool) {
	for h := range p.hosts(nil) {
		h.mu.Lock()
		stale := h.takeAll(reason, unfit)
		p.unlock(h)
		p.after(stale)
	}
}

// Close ends the pool: Get and the requests that wait return ErrClosed, dials
// are cancelled, idle connections are closed, and leased ones will be when
// they are given back. It waits for none of these but the closing of idle
// connections.
func (p *Pool[K, C]) Close() {
	if p.closed.Swap(true) {
		return
	}
	close(p.done)
	p.stopJanitor()
	// A Get that has seen the pool open has changed its host before the loop
	// locks it; any other sees the pool closed.
	for h := range p.hosts(nil) {
		h.mu.Lock()
		stale := h.shut()
		p.unlock(h)
		p.after(stale)
	}
}

// Stats returns the current numbers.
func (p *Pool[K, C]) Stats() Stats {
	s := Stats{
		Idle:    int(p.idle.Load()),
		Dialing: int(p.dialing.Load()),
		Pending: int(p.pending.Load()),
		Open:    int(p.open.Load()),
		Keys:    int(p.keys.Load()),
	}
	s.Leased = max(s.Open-s.Idle-s.Dialing, 0)
	return s
}

// StatsOf returns the current numbers of one key. Keys is 1 if there is a record of
// it, which is not made by asking.
func (p *Pool[K, C]) StatsOf(key K) Stats {
	s := p.shardOf(key)
	s.mu.RLock()
	h := s.hosts[key]
	s.mu.RUnlock()
	if h == nil {
		return Stats{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return Stats{
		Open: h.open, Idle: h.idle.n, Dialing: h.dialing, Leased: h.open - h.idle.n - h.dialing,
		Pending: h.pending.n, Keys: 1,
	}
}

// now is the current moment as the pool counts it: never 0, never backwards.
func (p *Pool[K, C]) now() time.Duration { return time.Since(p.epoch) }

// keepsIdle reports whether a connection may be idle at all.
func (p *Pool[K, C]) keepsIdle() bool {
	return !p.retired.Load() && p.cfg.MaxIdlePerKey > 0 && p.cfg.MaxIdle > 0 && p.cfg.IdleTimeout > 0
}
