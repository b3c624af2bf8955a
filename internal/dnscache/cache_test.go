package dnscache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// script is a backend that does what it is told to.
type script struct {
	mu    sync.Mutex
	reply map[string]Reply // by name, and by "name family"
	err   error
	after time.Duration

	asked    atomic.Int32
	canceled atomic.Int32
}

func (b *script) set(name string, r Reply) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reply == nil {
		b.reply = make(map[string]Reply)
	}
	b.reply[name] = r
}

func (b *script) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

func (b *script) Lookup(ctx context.Context, name string, f Family) (Reply, error) {
	b.asked.Add(1)
	b.mu.Lock()
	after := b.after
	b.mu.Unlock()
	select {
	case <-time.After(after):
	case <-ctx.Done():
		b.canceled.Add(1)
		return Reply{}, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return Reply{}, b.err
	}
	if r, ok := b.reply[name+" "+f.String()]; ok {
		return r, nil
	}
	return b.reply[name], nil
}

func (*script) CloseIdle() {}

var errBroken = errors.New("SERVFAIL")

// ask waits for the answer and reports whether it came from memory.
func ask(c *Cache, name string, f Family) (Answer, bool) {
	a, fl := c.Lookup(name, f)
	if fl == nil {
		return a, true
	}
	defer fl.Leave()
	<-fl.Done()
	return fl.Answer(), false
}

func isNotFound(err error) bool {
	d, ok := errors.AsType[*net.DNSError](err)
	return ok && d.IsNotFound
}

// Addresses are remembered for their time to live, within bounds.
func TestCacheTTL(t *testing.T) {
	for _, tc := range []struct {
		ttl, want time.Duration
	}{
		{0, MinTTL},
		{time.Second, MinTTL},
		{time.Minute, time.Minute},
		{MaxTTL, MaxTTL},
		{24 * time.Hour, MaxTTL},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := new(script)
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: tc.ttl})
			c := New(Config{Backend: b})
			if a, hit := ask(c, "origin.test", IPv4); hit || !slices.Equal(a.Addrs, addrs("192.0.2.1")) {
				t.Fatalf("%+v, %t", a, hit)
			}
			time.Sleep(tc.want - 1)
			if _, hit := ask(c, "origin.test", IPv4); !hit {
				t.Errorf("TTL %s: asked again before %s", tc.ttl, tc.want)
			}
			time.Sleep(time.Nanosecond)
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.2"), TTL: tc.ttl})
			if a, hit := ask(c, "origin.test", IPv4); hit || a.Stale || !slices.Equal(a.Addrs, addrs("192.0.2.2")) {
				t.Errorf("TTL %s: after %s %+v, %t", tc.ttl, tc.want, a, hit)
			}
		})
	}
}

// That there are no addresses is remembered for shorter (RFC 2308 §5).
func TestCacheNegativeTTL_RFC2308_5(t *testing.T) {
	for _, noName := range []bool{false, true} {
		for _, tc := range []struct {
			ttl, want time.Duration
		}{
			{0, MinNegativeTTL},
			{10 * time.Second, 10 * time.Second},
			{time.Hour, MaxNegativeTTL},
		} {
			synctest.Test(t, func(t *testing.T) {
				b := new(script)
				b.set("origin.test", Reply{TTL: tc.ttl, NoName: noName})
				c := New(Config{Backend: b})
				if a, _ := ask(c, "origin.test", IPv6); a.Addrs != nil || !isNotFound(a.Err) {
					t.Fatalf("%+v", a)
				}
				time.Sleep(tc.want - 1)
				if _, hit := ask(c, "origin.test", IPv6); !hit {
					t.Errorf("TTL %s: asked again before %s", tc.ttl, tc.want)
				}
				time.Sleep(time.Nanosecond)
				if _, hit := ask(c, "origin.test", IPv6); hit {
					t.Errorf("TTL %s: remembered after %s", tc.ttl, tc.want)
				}
			})
		}
	}
}

// A failure with nothing to fall back to is remembered briefly (RFC 9520 §3.2).
func TestCacheFailure_RFC9520_3_2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{err: errBroken}
		c := New(Config{Backend: b})
		for range 3 {
			a, _ := ask(c, "origin.test", IPv4)
			if d, ok := errors.AsType[*net.DNSError](a.Err); !ok || !d.IsTemporary || d.IsNotFound || !errors.Is(a.Err, errBroken) {
				t.Fatalf("%+v", a)
			}
		}
		if n := b.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(FailureTTL)
		b.fail(context.DeadlineExceeded)
		a, hit := ask(c, "origin.test", IPv4)
		if d, ok := errors.AsType[*net.DNSError](a.Err); hit || !ok || !d.IsTimeout {
			t.Errorf("%+v, %t", a, hit)
		}
	})
}

// Addresses whose time is over are used while the resolver fails, for a while
// (RFC 8767). It is tried again now and then, and at once when it works.
func TestCacheStale_RFC8767(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b})
		ask(c, "origin.test", IPv4)
		time.Sleep(time.Minute)
		b.fail(errBroken)
		begin := time.Now()
		asked := b.asked.Load()
		for time.Since(begin) < StaleFor {
			if a, _ := ask(c, "origin.test", IPv4); !a.Stale || a.Err != nil || !slices.Equal(a.Addrs, addrs("192.0.2.1")) {
				t.Fatalf("after %s: %+v", time.Since(begin), a)
			}
			time.Sleep(time.Second)
		}
		if n := b.asked.Load() - asked; n != int32(StaleFor/StaleRecheck) {
			t.Errorf("tried again %d times", n)
		}
		if a, _ := ask(c, "origin.test", IPv4); a.Err == nil || a.Addrs != nil {
			t.Errorf("after %s: %+v", time.Since(begin), a)
		}
		b.fail(nil)
		time.Sleep(FailureTTL)
		if a, _ := ask(c, "origin.test", IPv4); a.Stale || len(a.Addrs) == 0 {
			t.Errorf("works again: %+v", a)
		}
	})
}

// A name that does not exist any more has no stale addresses, of either family.
func TestCacheNoNameIsNeverStale(t *testing.T) {
	for _, before := range []string{"expired", "in use as stale"} {
		synctest.Test(t, func(t *testing.T) {
			b := new(script)
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
			c := New(Config{Backend: b})
			ask(c, "origin.test", IPv4)
			ask(c, "origin.test", IPv6)
			time.Sleep(time.Minute)
			if before != "expired" {
				b.fail(errBroken)
				if a, _ := ask(c, "origin.test", IPv6); !a.Stale {
					t.Fatalf("%+v", a)
				}
				b.fail(nil)
			}
			b.set("origin.test", Reply{NoName: true})
			if a, _ := ask(c, "origin.test", IPv4); !isNotFound(a.Err) {
				t.Fatalf("%+v", a)
			}
			b.fail(errBroken)
			time.Sleep(2 * time.Second)
			for _, f := range []Family{IPv4, IPv6} {
				if a, _ := ask(c, "origin.test", f); a.Err == nil {
					t.Errorf("%s, %s: %+v", before, f, a)
				}
			}
		})
	}
}

// A resolver that takes long is not waited for while there is a stale answer; its
// own one counts when it comes (RFC 8767 §5).
func TestCacheStaleMeanwhile_RFC8767_5(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b})
		ask(c, "origin.test", IPv4)
		time.Sleep(time.Minute)
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.2"), TTL: time.Minute})
		b.after = 3 * time.Second
		begin := time.Now()
		a, _ := ask(c, "origin.test", IPv4)
		if took := time.Since(begin); !a.Stale || took != StaleAfter {
			t.Errorf("%+v after %s", a, took)
		}
		if a, hit := ask(c, "origin.test", IPv4); !hit || !a.Stale {
			t.Errorf("%+v, %t", a, hit)
		}
		time.Sleep(3*time.Second - StaleAfter)
		synctest.Wait()
		if a, hit := ask(c, "origin.test", IPv4); !hit || a.Stale || !slices.Equal(a.Addrs, addrs("192.0.2.2")) {
			t.Errorf("%+v, %t", a, hit)
		}
		if n := b.asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// A stale answer that was handed out meanwhile stays in use when the resolver
// fails in the end.
func TestCacheStaleMeanwhileThenFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b})
		ask(c, "origin.test", IPv4)
		time.Sleep(time.Minute)
		b.fail(errBroken)
		b.after = 3 * time.Second
		ask(c, "origin.test", IPv4)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if a, hit := ask(c, "origin.test", IPv4); !hit || !a.Stale {
			t.Errorf("%+v, %t", a, hit)
		}
	})
}

// However many ask, a name is asked for once, and that goes on when the first one
// leaves.
func TestCacheSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{after: time.Second}
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b})
		_, first := c.Lookup("origin.test", IPv4)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if a, hit := ask(c, "origin.test", IPv4); hit || len(a.Addrs) != 1 {
					t.Errorf("%+v, %t", a, hit)
				}
			})
		}
		synctest.Wait()
		first.Leave()
		wg.Wait()
		if asked, canceled := b.asked.Load(), b.canceled.Load(); asked != 1 || canceled != 0 {
			t.Errorf("asked %d times, %d of them cancelled", asked, canceled)
		}
	})
}

// A question that everybody has left goes on, and its late answer is known to the next.
func TestCacheEverybodyLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{after: time.Second}
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b})
		for range 3 { // the next joins it
			_, fl := c.Lookup("origin.test", IPv4)
			synctest.Wait() // until the backend is asked
			fl.Leave()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if a, hit := ask(c, "origin.test", IPv4); !hit || len(a.Addrs) != 1 {
			t.Errorf("%+v, %t", a, hit)
		}
		if asked, left := b.asked.Load(), c.left.Load(); asked != 1 || left != 0 {
			t.Errorf("asked %d times, %d left", asked, left)
		}
	})
}

// Only so many questions go on that everybody has left. Those that do not are no failure
// of their names.
func TestCacheLeftIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{after: time.Second}
		b.set("b.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b, MaxQuestions: leftShare})
		for _, name := range []string{"a.test", "b.test"} {
			_, fl := c.Lookup(name, IPv4)
			synctest.Wait()
			fl.Leave()
		}
		if a, hit := ask(c, "b.test", IPv4); hit || a.Err != nil {
			t.Errorf("%+v, %t", a, hit)
		}
		synctest.Wait()
		if asked, canceled := b.asked.Load(), b.canceled.Load(); asked != 3 || canceled != 1 || c.left.Load() != 0 {
			t.Errorf("asked %d times, %d of them cancelled, %d left", asked, canceled, c.left.Load())
		}
	})
}

// That nobody answers for a family is remembered for longer each time in a row where the
// addresses of the other one are known.
func TestCacheSilentFamily(t *testing.T) {
	const s = time.Second
	silent := context.DeadlineExceeded
	for what, tc := range map[string]struct {
		errs  []error // nil is an answer without addresses
		other bool
		want  []time.Duration
	}{
		"silent":           {[]error{silent, silent, silent, silent, silent, silent, silent}, true, []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, SilentTTL, SilentTTL}},
		"other unknown":    {[]error{silent, silent, silent}, false, []time.Duration{FailureTTL, FailureTTL, FailureTTL}},
		"broken":           {[]error{errBroken, errBroken}, true, []time.Duration{FailureTTL, FailureTTL}},
		"broken between":   {[]error{silent, silent, errBroken, silent, silent}, true, []time.Duration{1 * s, 2 * s, FailureTTL, 1 * s, 2 * s}},
		"answered between": {[]error{silent, silent, nil, silent, silent}, true, []time.Duration{1 * s, 2 * s, MinNegativeTTL, 1 * s, 2 * s}},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := &script{}
			b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Hour})
			b.set("origin.test IPv6", Reply{})
			c := New(Config{Backend: b})
			if tc.other {
				ask(c, "origin.test", IPv4)
			}
			for i, err := range tc.errs {
				b.fail(err)
				if _, hit := ask(c, "origin.test", IPv6); hit {
					t.Errorf("%s, %d: not forgotten", what, i)
				}
				time.Sleep(tc.want[i] - 1)
				if _, hit := ask(c, "origin.test", IPv6); !hit {
					t.Errorf("%s, %d: forgotten too early", what, i)
				}
				time.Sleep(time.Nanosecond)
			}
		})
	}
}

// A backend that does not end is ended.
func TestCacheFlightTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Backend: &script{after: time.Hour}})
		begin := time.Now()
		a, _ := ask(c, "origin.test", IPv4)
		if d, ok := errors.AsType[*net.DNSError](a.Err); !ok || !d.IsTimeout || time.Since(begin) != flightTimeout {
			t.Errorf("%+v after %s", a, time.Since(begin))
		}
	})
}

// The cache never holds more names than its limit, and answers them all.
func TestCacheIsBounded(t *testing.T) {
	b := new(script)
	c := New(Config{Backend: b, MaxNames: 1000})
	for i := range 5000 {
		name := fmt.Sprintf("n%d.test", i)
		b.set(name, Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		if a, _ := ask(c, name, IPv4); len(a.Addrs) != 1 {
			t.Fatalf("%s: %+v", name, a)
		}
	}
	if n := c.Len(); n > 1000 || n < 900 {
		t.Errorf("%d names", n)
	}
}

// While nothing can make room, names are served all the same.
func TestCacheServesUncached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{after: time.Second}
		c := New(Config{Backend: b, MaxNames: 1})
		var wg sync.WaitGroup
		for i := range 1000 {
			name := fmt.Sprintf("n%d.test", i)
			b.set(name, Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
			wg.Go(func() {
				if a, _ := ask(c, name, IPv4); len(a.Addrs) != 1 {
					t.Errorf("%s: %+v", name, a)
				}
			})
		}
		wg.Wait()
		if n := c.Len(); n > 1 {
			t.Errorf("%d names", n)
		}
	})
}

// Names without addresses make room before names with some: a client that asks
// for names which do not exist does not push out what others use.
func TestCacheEvictsNegativeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		c := New(Config{Backend: b, MaxNames: 64 * 8})
		for i := range 200 {
			name := fmt.Sprintf("good%d.test", i)
			b.set(name, Reply{Addrs: addrs("192.0.2.1"), TTL: time.Hour})
			ask(c, name, IPv4)
		}
		for i := range 5000 {
			ask(c, fmt.Sprintf("bad%d.test", i), IPv4)
		}
		left := 0
		for i := range 200 {
			if a, fl := c.Lookup(fmt.Sprintf("good%d.test", i), IPv4); fl == nil && len(a.Addrs) == 1 {
				left++
			} else if fl != nil {
				fl.Leave()
			}
		}
		synctest.Wait()
		if left < 180 { // a shard may have got more than its share of good ones
			t.Errorf("%d of 200 names are left", left)
		}
	})
}

// Where all that is remembered has addresses, names without any find no place: however many
// a client asks for, none of those that others use is lost to them. They are answered all
// the same, and are remembered in the place of each other as soon as there is one.
func TestCacheEvictsNegativeFirst_Full(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		c := New(Config{Backend: b, MaxNames: 64 * 8})
		const good = 64 * 16
		for i := range good {
			name := fmt.Sprintf("good%d.test", i)
			b.set(name, Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
			ask(c, name, IPv4)
		}
		before := c.remembered("good%d.test", good)
		for i := range 20_000 {
			if a, _ := ask(c, fmt.Sprintf("bad%d.test", i), IPv4); !isNotFound(a.Err) {
				t.Fatalf("%+v", a)
			}
		}
		if n := c.remembered("good%d.test", good); n != before {
			t.Errorf("%d names are left, %d before", n, before)
		}
		time.Sleep(time.Minute + StaleFor) // the time of all is over
		ask(c, "bad.test", IPv4)
		if _, hit := ask(c, "bad.test", IPv4); !hit {
			t.Error("a name without addresses is not remembered in the place of one whose time is over")
		}
	})
}

// remembered counts the names of a form whose IPv4 addresses are known, of n.
func (c *Cache) remembered(form string, n int) (known int) {
	for i := range n {
		name := fmt.Sprintf(form, i)
		s := &c.shards[maphash.String(c.seed, name)%shards]
		s.mu.RLock()
		if e := s.names[name]; e != nil && e.records[IPv4].Load().usableStale(time.Now()) {
			known++
		}
		s.mu.RUnlock()
	}
	return known
}

// Questions under way push out no names that are known, whether somebody waits for them
// or not, and neither does the silence that those bring which nobody waits for. Each is
// asked once all the same, and what comes is remembered.
func TestCacheQuestionsEvictNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		c := New(Config{Backend: b, MaxNames: 64 * 8})
		const good = 64 * 16
		for i := range good {
			name := fmt.Sprintf("good%d.test", i)
			b.set(name, Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
			ask(c, name, IPv4)
		}
		before := c.remembered("good%d.test", good)
		if before < 64*7 {
			t.Fatalf("%d names are remembered", before)
		}
		time.Sleep(2 * time.Minute) // they are usable as stale
		b.after = 4 * time.Second
		var waiting []*Flight
		for i := range 5000 {
			_, fl := c.Lookup(fmt.Sprintf("silent%d.test", i), IPv4)
			synctest.Wait()
			if i < 500 {
				_, again := c.Lookup(fmt.Sprintf("silent%d.test", i), IPv4)
				if again != fl {
					t.Fatalf("silent%d.test is asked for twice", i)
				}
				again.Leave()
				waiting = append(waiting, fl)
				continue
			}
			fl.Leave()
		}
		if n := c.remembered("good%d.test", good); n != before {
			t.Errorf("%d names are left, %d before", n, before)
		}
		for _, fl := range waiting {
			fl.Leave()
		}
		b.fail(context.DeadlineExceeded)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := c.remembered("good%d.test", good); n != before {
			t.Errorf("%d names are left after the silence, %d before", n, before)
		}
		b.fail(nil)
		b.set("late.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		_, fl := c.Lookup("late.test", IPv4)
		synctest.Wait()
		fl.Leave()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if a, hit := ask(c, "late.test", IPv4); !hit || len(a.Addrs) != 1 || c.Len() > 64*8 {
			t.Errorf("%+v, %t, %d names", a, hit, c.Len())
		}
	})
}

// A name that makes room while it is asked for is asked for once, keeps its addresses for
// those who wait, and is remembered when they come.
func TestCacheEvictedInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(script)
		b.set("origin.test", Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute})
		c := New(Config{Backend: b})
		ask(c, "origin.test", IPv4)
		time.Sleep(2 * time.Minute)
		b.after = time.Second
		_, fl := c.Lookup("origin.test", IPv4)
		synctest.Wait()
		fl.shard.mu.Lock()
		evicted := fl.shard.evict(true, time.Now())
		fl.shard.mu.Unlock()
		if _, again := c.Lookup("origin.test", IPv4); !evicted || again != fl || c.Len() != 0 {
			t.Fatalf("evicted: %t, the same question: %t, %d names", evicted, again == fl, c.Len())
		}
		b.fail(errBroken)
		<-fl.Done()
		if a := fl.Answer(); !a.Stale {
			t.Errorf("%+v", a)
		}
		fl.Leave()
		fl.Leave()
		synctest.Wait()
		a, hit := ask(c, "origin.test", IPv4)
		fl.shard.mu.Lock()
		defer fl.shard.mu.Unlock()
		if n := len(fl.shard.asked); !hit || !a.Stale || n != 0 {
			t.Errorf("%+v, %t, %d asked for", a, hit, n)
		}
	})
}

// Of a long answer, some addresses are used: unmapped, each once.
func TestCacheUsableAddresses(t *testing.T) {
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	b := new(script)
	b.set("many.test", Reply{Addrs: many, TTL: time.Minute})
	b.set("odd.test", Reply{Addrs: append(addrs("::ffff:192.0.2.1", "192.0.2.1", "2001:db8::1"), netip.Addr{}), TTL: time.Minute})
	c := New(Config{Backend: b})
	if a, _ := ask(c, "many.test", IPv4); !slices.Equal(a.Addrs, many[:MaxAddrs]) {
		t.Errorf("%v", a.Addrs)
	}
	if a, _ := ask(c, "odd.test", IPv6); !slices.Equal(a.Addrs, addrs("192.0.2.1", "2001:db8::1")) {
		t.Errorf("%v", a.Addrs)
	}
}

// An answer from memory allocates nothing.
func TestCacheHitAllocates(t *testing.T) {
	b := new(script)
	b.set("origin.test", Reply{Addrs: addrs("192.0.2.1", "192.0.2.2"), TTL: time.Hour})
	b.set("none.test", Reply{NoName: true, TTL: time.Hour})
	c := New(Config{Backend: b, Static: map[string][]netip.Addr{"static.test": addrs("192.0.2.3")}, HostsFile: hostsFileWith(t, "192.0.2.4 file.test")})
	for _, name := range []string{"origin.test", "none.test", "static.test", "file.test"} {
		ask(c, name, IPv4)
		if n := testing.AllocsPerRun(1000, func() {
			if _, fl := c.Lookup(name, IPv4); fl != nil {
				t.Fatal("not remembered")
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Many goroutines, few names, short lives: for the race detector, and for what
// must hold in all of them.
func TestCacheConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &script{after: time.Millisecond}
		for i := range 40 {
			b.set(fmt.Sprintf("n%d.test", i), Reply{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}})
		}
		c := New(Config{Backend: b, MaxNames: 64})
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				for i := range 200 {
					n := (g*7 + i) % 40
					a, fl := c.Lookup(fmt.Sprintf("n%d.test", n), Family(g%2))
					if fl != nil {
						if i%5 == g%5 {
							fl.Leave()
							continue
						}
						<-fl.Done()
						a = fl.Answer()
						fl.Leave()
					}
					if len(a.Addrs) != 1 || a.Addrs[0].As4()[3] != byte(n) {
						t.Errorf("n%d: %+v", n, a)
					}
					time.Sleep(time.Duration(i%7) * time.Second)
				}
			})
		}
		wg.Wait()
		for i := range c.shards {
			s := &c.shards[i]
			s.mu.Lock()
			for name, e := range s.names {
				if e.inFlight() {
					t.Errorf("%s is still asked for", name)
				}
			}
			if n := len(s.asked); n > 0 {
				t.Errorf("%d entries are still asked for", n)
			}
			s.mu.Unlock()
		}
	})
}

func BenchmarkCacheHit(b *testing.B) {
	s := new(script)
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("host%d.example.test", i)
		s.set(names[i], Reply{Addrs: addrs("192.0.2.1"), TTL: time.Hour})
	}
	c := New(Config{Backend: s, HostsFile: hostsFileWith(b, "127.0.0.1 localhost")})
	for _, name := range names {
		ask(c, name, IPv4)
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, fl := c.Lookup(names[i%len(names)], IPv4); fl != nil {
				b.Error("not remembered")
				return
			}
		}
	})
}

// counted is a backend that holds its answers back and counts the questions under way.
type counted struct {
	now, most, asked atomic.Int32
	answer           chan struct{}
}

func (b *counted) Lookup(ctx context.Context, _ string, _ Family) (Reply, error) {
	b.asked.Add(1)
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
	}
	select {
	case <-b.answer:
		return Reply{Addrs: addrs("192.0.2.1"), TTL: time.Minute}, nil
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	}
}

func (*counted) CloseIdle() {}

// Questions beyond the limit wait for their turn; those waiting that nobody waits for any more
// are not asked.
func TestMaxQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &counted{answer: make(chan struct{})}
		c := New(Config{Backend: b, MaxQuestions: 2})
		var flights []*Flight
		for i := range 6 {
			_, fl := c.Lookup(fmt.Sprint("n", i, ".test"), IPv4)
			flights = append(flights, fl)
			synctest.Wait()
		}
		if n := b.now.Load(); n != 2 {
			t.Errorf("%d questions under way", n)
		}
		flights[2].Leave()
		flights[0].Leave() // its place is free
		synctest.Wait()
		if n := b.now.Load(); n != 2 {
			t.Errorf("%d questions under way", n)
		}
		close(b.answer)
		for _, i := range []int{1, 3, 4, 5} {
			<-flights[i].Done()
			if a := flights[i].Answer(); len(a.Addrs) != 1 {
				t.Errorf("%d: %+v", i, a)
			}
			flights[i].Leave()
		}
		synctest.Wait()
		if b.most.Load() != 2 || b.asked.Load() != 5 || b.now.Load() != 0 {
			t.Errorf("%d at once, %d asked, %d under way", b.most.Load(), b.asked.Load(), b.now.Load())
		}
	})
}

// A question that never had its turn is told as that, and is no silence of anybody.
func TestMaxQuestions_NoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &deaf{hung: make(chan struct{})}
		c := New(Config{Backend: b, MaxQuestions: 1})
		_, first := c.Lookup("first.test", IPv4)
		synctest.Wait()
		_, second := c.Lookup("second.test", IPv4)
		<-second.Done()
		err := second.Answer().Err
		if d, ok := errors.AsType[*net.DNSError](err); !ok || d.IsTimeout || d.IsNotFound || !errors.Is(err, ErrNoTurn) {
			t.Errorf("%+v", err)
		}
		if !first.Asked() || second.Asked() {
			t.Errorf("first asked: %t, second: %t", first.Asked(), second.Asked())
		}
		second.Leave()
		close(b.hung)
		<-first.Done()
		first.Leave()
	})
}

// deaf is a backend that does not end with its context.
type deaf struct{ hung chan struct{} }

func (b *deaf) Lookup(context.Context, string, Family) (Reply, error) {
	<-b.hung
	return Reply{}, nil
}

func (*deaf) CloseIdle() {}
