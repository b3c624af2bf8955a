package dnscache

import (
	"net/netip"
	"time"
)

// This file contains what is told of a cache, for people and programs that look.

// Report is what a cache is at a moment.
type Report struct {
	Names     int // that are remembered
	MaxNames  int // that may be
	Questions int // under way
	Left      int // of these: those that nobody waits for any more
}

// Report tells what the cache is now.
func (c *Cache) Report() Report {
	r := Report{Names: c.Len(), Questions: len(c.turns), Left: int(c.left.Load())}
	for i := range c.shards {
		r.MaxNames += c.shards[i].max
	}
	return r
}

// Known is what is remembered of a name in one family.
type Known struct {
	Family Family
	Addrs  []netip.Addr // they are shared: do not change them
	Err    error        // why there are none
	Fixed  bool         // it is in the configuration or the hosts file: what follows is not set

	Expires    time.Time // when it is asked for again
	StaleUntil time.Time // until when it is used if that fails; zero: it is not
	Stale      bool      // that has failed
}

// Fixed are the addresses of a name that is in the configuration or the hosts file; more
// says that it has others there. Nothing is asked for; as long as the hosts file cannot be
// read, its names are not known.
func (c *Cache) Fixed(name string) (addrs []netip.Addr, more bool) {
	now := time.Now()
	for f := range families {
		if a, ok := c.hosts.lookup(name, f, now); ok {
			addrs, more = append(addrs, a.Addrs...), more || a.More
		}
	}
	return addrs, more
}

// Look tells what is remembered of a name, and asks for nothing. It is not noted as a use.
func (c *Cache) Look(name string) (all []Known) {
	now := time.Now()
	for f := range families {
		if a, ok := c.hosts.lookup(name, f, now); ok {
			all = append(all, Known{Family: f, Addrs: a.Addrs, Err: a.Err, Fixed: true})
		}
	}
	if len(all) > 0 {
		return all
	}
	s := c.shardOf(name)
	s.mu.RLock()
	e := s.names[name]
	s.mu.RUnlock()
	if e == nil {
		return nil
	}
	for f := range families {
		if r := e.records[f].Load(); r != nil {
			all = append(all, Known{f, r.Addrs, r.Err, false, r.expires, r.staleUntil, r.Stale})
		}
	}
	return all
}

// Forget forgets what DNS servers have said of a name, or with "" of all, and reports of how
// many names. Who waits for the answer to a question that is under way still gets it, but it
// is not remembered, and nobody joins that question any more.
func (c *Cache) Forget(name string) (n int) {
	if name != "" {
		return c.shardOf(name).forget(name)
	}
	for i := range c.shards {
		n += c.shards[i].forgetAll()
	}
	return n
}

func (s *shard) forget(name string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.names[name]; e != nil {
		n = 1
		e.forget()
		delete(s.names, name)
	}
	if e := s.asked[name]; e != nil {
		e.forget()
		delete(s.asked, name)
	}
	return n
}

func (s *shard) forgetAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.names)
	for _, list := range []map[string]*entry{s.names, s.asked} {
		for _, e := range list {
			e.forget()
		}
		clear(list)
	}
	return n
}

// forget leaves an entry to the flights that it has. Needs shard.mu.
func (e *entry) forget() {
	e.forgotten = true
	for f := range e.records {
		e.records[f].Store(nil)
	}
}
