package dnscache

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a [Cache] is made of.
type Config struct {
	// Backend is asked for what is not known.
	Backend Backend

	// Static are names with fixed addresses, lower-case without trailing dot.
	// They come before everything else.
	Static map[string][]netip.Addr

	// HostsFile is a file in the format of hosts(5) that comes next, "" for
	// none. It is read by New, and again when it has changed and was left alone for a
	// moment. Where New could not read it,
	// the first question does, and fails if it cannot: a file that is not there is none,
	// but the names of one that cannot be read must not be asked for elsewhere.
	HostsFile string

	// TellHostsFile is called, with the reason, when a hosts file that was read is gone,
	// which names nobody, or is empty now (ErrHostsFileEmpty) or cannot be read any more,
	// and then the names of before stay; and with nil when it is back. Default: nobody is
	// told.
	TellHostsFile func(error)

	// MaxNames is how many names are remembered. Default: DefaultMaxNames.
	MaxNames int

	// MaxQuestions is how many questions may be under way to Backend. Others wait for
	// their turn, as long as somebody waits for them. Default: DefaultMaxQuestions,
	// which is also the most.
	MaxQuestions int
}

// leftShare is the part of the turns that questions may have which nobody waits for any
// more: a quarter.
const leftShare = 4

// shards is a power of two: callers with different names seldom meet at a lock.
const shards = 64

// Cache resolves names and remembers the answers. It is safe for concurrent use.
type Cache struct {
	backend Backend
	hosts   *hosts
	seed    maphash.Seed
	turns   chan struct{} // one in it for each question under way
	left    atomic.Int64  // questions under way that nobody waits for
	shards  [shards]shard
}

type shard struct {
	max   int
	mu    sync.RWMutex
	names map[string]*entry

	// asked are entries with flights that are not among names: of names that are not
	// known yet, or that had to make room. They take nobody's place.
	asked map[string]*entry
}

// entry is what is remembered of a name.
type entry struct {
	records [families]atomic.Pointer[record]
	used    atomic.Int64 // unix time of the last look-up

	// Guarded by shard.mu.
	flights   [families]*Flight
	forgotten bool // by order: what still comes for it is not remembered
}

// record is an answer with its times. It is never changed.
type record struct {
	Answer
	expires    time.Time
	staleUntil time.Time     // zero for answers without addresses
	silence    time.Duration // remembered of a family that nobody answered for, else 0
}

// New returns a cache.
func New(cfg Config) *Cache {
	c := &Cache{
		backend: cfg.Backend,
		hosts:   newHosts(cfg.Static, cfg.HostsFile),
		seed:    maphash.MakeSeed(),
	}
	c.hosts.tell = cfg.TellHostsFile
	questions := cfg.MaxQuestions
	if questions <= 0 || questions > DefaultMaxQuestions {
		questions = DefaultMaxQuestions
	}
	c.turns = make(chan struct{}, questions)
	limit := cfg.MaxNames
	if limit <= 0 {
		limit = DefaultMaxNames
	}
	for i := range c.shards {
		// Rounded so that they add up to the limit: an empty shard refuses
		// nothing, its names are served uncached.
		c.shards[i].max = (limit + i) / shards
		c.shards[i].names, c.shards[i].asked = make(map[string]*entry), make(map[string]*entry)
	}
	_ = c.hosts.ready(context.Background()) // if it fails, it is tried again
	return c
}

// Lookup returns the addresses of a name in one family, if they are known, and
// else a flight that will bring them. name is lower-case ASCII without a trailing
// dot. The caller of a flight must leave it: see [Flight.Leave].
//
// An answer that is known allocates nothing.
func (c *Cache) Lookup(name string, f Family) (Answer, *Flight) {
	now := time.Now()
	if addrs, ok := c.hosts.lookup(name, f, now); ok {
		return addrs, nil
	}
	s := c.shardOf(name)
	s.mu.RLock()
	e := s.names[name]
	s.mu.RUnlock()
	if e != nil {
		if r := e.records[f].Load(); r.fresh(now) {
			e.touch(now)
			return r.Answer, nil
		}
	}
	return c.join(s, name, f, now)
}

func (c *Cache) shardOf(name string) *shard {
	return &c.shards[maphash.String(c.seed, name)%shards]
}

// inFlight reports whether an entry is asked for. Needs shard.mu.
func (e *entry) inFlight() bool { return e.flights != [families]*Flight{} }

// touch notes that an entry is in use. Most times nothing is written, so that
// the memory stays in the caches of all processors.
func (e *entry) touch(now time.Time) {
	if u := now.Unix(); e.used.Load() != u {
		e.used.Store(u)
	}
}

// Len is how many names are remembered.
func (c *Cache) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.names)
		s.mu.RUnlock()
	}
	return n
}

// CloseIdle closes what the backend keeps open for its next question. The cache
// can still be used.
func (c *Cache) CloseIdle() { c.backend.CloseIdle() }

// Flight is a question that is under way, and those who wait for its answer.
type Flight struct {
	cache *Cache
	shard *shard
	entry *entry
	name  string
	f     Family

	question *Question

	cancel context.CancelFunc
	done   chan struct{}
	answer Answer // set before done is closed

	// Guarded by shard.mu.
	waiters int
	landed  bool // done is closed
	asked   bool // it had its turn
	left    bool // it goes on though nobody waits
}

// join boards the flight for a name, a new one if there is none.
func (c *Cache) join(s *shard, name string, f Family, now time.Time) (Answer, *Flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.names[name]
	if e == nil {
		e = s.asked[name]
	}
	if e == nil {
		e = new(entry)
		s.asked[name] = e
	}
	e.touch(now)
	if r := e.records[f].Load(); r.fresh(now) {
		return r.Answer, nil // came in just now
	}
	fl := e.flights[f]
	if fl == nil {
		ctx, cancel := context.WithTimeout(context.Background(), flightTimeout)
		fl = &Flight{cache: c, shard: s, entry: e, name: name, f: f, question: new(Question), cancel: cancel, done: make(chan struct{})}
		e.flights[f] = fl
		go fl.run(ctx)
	}
	fl.waiters++
	fl.rejoin()
	return Answer{}, fl
}

// Done is closed when the answer is there.
func (fl *Flight) Done() <-chan struct{} { return fl.done }

// Over reports whether the answer is there.
func (fl *Flight) Over() bool {
	select {
	case <-fl.done:
		return true
	default:
		return false
	}
}

// Answer is the answer, once Done is closed.
func (fl *Flight) Answer() Answer { return fl.answer }

// Question is that of the flight, which is found in the error of its answer too.
func (fl *Flight) Question() *Question { return fl.question }

// Asked reports whether the backend was asked: a flight waits for its turn first.
func (fl *Flight) Asked() bool {
	fl.shard.mu.RLock()
	defer fl.shard.mu.RUnlock()
	return fl.asked
}

// Leave says that the caller does not wait any more. Everybody who got a flight
// from [Cache.Lookup] calls it once, whether the answer came or not. A flight goes on
// when everybody has left, so that a late answer is known to the next: but not one that
// still waits for its turn, nor one too many.
func (fl *Flight) Leave() {
	fl.shard.mu.Lock()
	defer fl.shard.mu.Unlock()
	fl.waiters--
	if fl.waiters > 0 || fl.landed || fl.goOn() {
		return
	}
	fl.land(Answer{Err: &net.DNSError{Err: "nobody waits", Name: fl.name, IsTemporary: true}})
	fl.depart()
	fl.cancel()
}

// goOn lets a flight go on that nobody waits for, if it may. Such flights have a quarter
// of the turns at most. Needs shard.mu.
func (fl *Flight) goOn() bool {
	c := fl.cache
	if !fl.asked {
		return false
	}
	if c.left.Add(1) > int64(cap(c.turns)/leftShare) {
		c.left.Add(-1)
		return false
	}
	fl.left = true
	return true
}

// rejoin notes that somebody waits, or that nobody has to any more. Needs shard.mu.
func (fl *Flight) rejoin() {
	if fl.left {
		fl.left = false
		fl.cache.left.Add(-1)
	}
}

// land hands the answer out, if nobody has yet. Needs shard.mu.
func (fl *Flight) land(a Answer) {
	if !fl.landed {
		fl.landed, fl.answer = true, a
		close(fl.done)
	}
}

// depart makes room for the next flight. Needs shard.mu.
func (fl *Flight) depart() {
	e := fl.entry
	if e.flights[fl.f] == fl {
		e.flights[fl.f] = nil
	}
	if !e.inFlight() && fl.shard.asked[fl.name] == e {
		delete(fl.shard.asked, fl.name)
	}
}

// run asks the backend and remembers what it says. Where it takes long and there
// is a stale answer, that one is handed out meanwhile.
func (fl *Flight) run(ctx context.Context) {
	defer fl.cancel()
	if answer, ok := fl.askHosts(ctx); ok {
		fl.shard.mu.Lock()
		defer fl.shard.mu.Unlock()
		fl.depart()
		fl.land(answer)
		return
	}
	if r := fl.entry.records[fl.f].Load(); r.usableStale(time.Now()) {
		timer := time.AfterFunc(StaleAfter, func() {
			fl.shard.mu.Lock()
			defer fl.shard.mu.Unlock()
			if now := time.Now(); !fl.landed && r.usableStale(now) {
				fl.land(fl.keep(r.stale(now)))
			}
		})
		defer timer.Stop()
	}
	reply, err := fl.ask(ctx)
	fl.shard.mu.Lock()
	defer fl.shard.mu.Unlock()
	fl.rejoin()
	if err != nil && fl.entry.flights[fl.f] != fl {
		return // everybody has left: the failure may be our own doing
	}
	fl.depart()
	fl.land(fl.remember(reply, err))
	fl.shard.admit(fl.name, fl.entry, fl.waiters > 0, time.Now())
}

// askHosts is the answer of the hosts file where it was not ready when the flight began,
// and else false. That it cannot be read is an answer too, which is not remembered.
func (fl *Flight) askHosts(ctx context.Context) (Answer, bool) {
	if err := fl.cache.hosts.ready(ctx); err != nil {
		return Answer{Err: failed(fl.name, err, fl.question)}, true
	}
	return fl.cache.hosts.lookup(fl.name, fl.f, time.Now())
}

// ask asks the backend, when it is this question's turn.
func (fl *Flight) ask(ctx context.Context) (Reply, error) {
	c := fl.cache
	select {
	case c.turns <- struct{}{}:
		defer func() { <-c.turns }()
		fl.shard.mu.Lock()
		fl.asked = fl.entry.flights[fl.f] == fl // else everybody has left
		fl.shard.mu.Unlock()
		return c.backend.Lookup(ctx, fl.name, fl.f)
	case <-ctx.Done():
		return Reply{}, ErrNoTurn
	}
}

// remember keeps what the backend said and returns what callers get. Needs
// shard.mu.
func (fl *Flight) remember(reply Reply, err error) Answer {
	now := time.Now()
	if err != nil {
		last := fl.entry.records[fl.f].Load()
		if last.usableStale(now) {
			return fl.keep(last.stale(now))
		}
		if isOwnFault(err) { // it is no news about the name, and over when there is room
			return Answer{Err: failed(fl.name, err, fl.question)}
		}
		next := &record{Answer: Answer{Err: failed(fl.name, err, fl.question)}, expires: now.Add(FailureTTL)}
		if d, ok := errors.AsType[*net.DNSError](next.Err); ok && d.IsTimeout && fl.entry.records[1-fl.f].Load().usableStale(now) {
			next.silence = last.nextSilence()
			next.expires = now.Add(next.silence)
		}
		return fl.keep(next)
	}
	if addrs, more := usable(reply.Addrs); len(addrs) > 0 {
		expires := now.Add(min(max(reply.TTL, MinTTL), MaxTTL))
		return fl.keep(&record{Answer: Answer{Addrs: addrs, More: more || reply.Partial}, expires: expires, staleUntil: expires.Add(StaleFor)})
	}
	if reply.NoName {
		// There is nothing of the other family either: what is still
		// remembered of it must not come back as stale.
		other := &fl.entry.records[1-fl.f]
		if r := other.Load(); r != nil && (r.Stale || !r.fresh(now)) {
			other.Store(nil)
		}
	}
	ttl := min(max(reply.TTL, MinNegativeTTL), MaxNegativeTTL)
	return fl.keep(&record{Answer: Answer{Err: notFound(fl.name, fl.f, reply.NoName, fl.question)}, expires: now.Add(ttl)})
}

func (fl *Flight) keep(r *record) Answer {
	fl.entry.records[fl.f].Store(r)
	return r.Answer
}

// usableStale reports whether the addresses of a record may be used if the name
// cannot be asked for anew.
func (r *record) usableStale(now time.Time) bool {
	return r != nil && now.Before(r.staleUntil)
}

// nextSilence is how long it is remembered that nobody answered: twice as long as the
// last time, if that was silence too.
func (r *record) nextSilence() time.Duration {
	if r == nil {
		return FailureTTL
	}
	return min(max(2*r.silence, FailureTTL), SilentTTL)
}

// fresh reports whether the time of a record is not over yet.
func (r *record) fresh(now time.Time) bool { return r != nil && now.Before(r.expires) }

// stale is the record for the time until the name is asked for again.
func (r *record) stale(now time.Time) *record {
	next := *r
	next.Stale = true
	next.expires = now.Add(StaleRecheck)
	if next.staleUntil.Before(next.expires) {
		next.expires = next.staleUntil
	}
	return &next
}

// usable returns the addresses of a reply that are used: unmapped, each once, not
// too many. more says that there are others.
func usable(list []netip.Addr) (out []netip.Addr, more bool) {
	out = make([]netip.Addr, 0, min(len(list), MaxAddrs))
	for _, a := range list {
		switch a = a.Unmap(); {
		case !a.IsValid() || slices.Contains(out, a):
		case len(out) == MaxAddrs:
			return out, true
		default:
			out = append(out, a)
		}
	}
	return out, false
}
