package dnscache

import "time"

// sample is how many entries are looked at to find one that can go.
const sample = 8

// insert puts an entry in, in place of another one if the shard is full. An
// entry that finds no place serves those who wait for it and is forgotten: a
// full cache refuses nobody. Needs s.mu.
func (s *shard) insert(name string, e *entry, now time.Time) {
	if len(s.names) >= s.max && !s.evict(now) {
		return
	}
	s.names[name] = e
}

// evict takes out the entry that is worth least among a few, which the map
// picks at random, and reports whether there was one. It looks at entries
// without an answer or with a negative one first, so that a client that asks
// for names which do not exist pushes out its own. Entries that somebody waits
// for stay. Needs s.mu.
func (s *shard) evict(now time.Time) bool {
	var victim string
	least := int64(-1)
	looked := 0
	for name, e := range s.names {
		if looked++; looked > sample {
			break
		}
		if e.flights[IPv4] != nil || e.flights[IPv6] != nil {
			continue
		}
		if w := e.worth(now); least < 0 || w < least {
			victim, least = name, w
		}
	}
	if least < 0 {
		return false
	}
	delete(s.names, victim)
	return true
}

// worth orders entries: those without addresses in use first, then by how long
// they were not asked for.
func (e *entry) worth(now time.Time) int64 {
	for f := range e.records {
		if r := e.records[f].Load(); r.fresh(now) && len(r.Addrs) > 0 {
			return max(e.used.Load(), 1)
		}
	}
	return 0
}
