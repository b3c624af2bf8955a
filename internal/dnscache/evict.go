package dnscache

import "time"

// sample is how many entries are looked at to find one that can go.
const sample = 8

// admit puts an entry among the names that are remembered, in place of another one if
// the shard is full. An entry that finds no place serves those who wait for it and is
// forgotten: a full cache refuses nobody. One without addresses that nobody waits for
// is not worth the place of another. Needs s.mu.
func (s *shard) admit(name string, e *entry, awaited bool, now time.Time) {
	if s.names[name] != nil || s.asked[name] != nil && s.asked[name] != e {
		return // it is there, or a newer one is
	}
	if !awaited && e.worth(now) == 0 || len(s.names) >= s.max && !s.evict(now) {
		return
	}
	delete(s.asked, name)
	s.names[name] = e
}

// evict takes out the entry that is worth least among a few, which the map
// picks at random, and reports whether there was one. It looks at entries
// without an answer or with a negative one first, so that a client that asks
// for names which do not exist pushes out its own. Those who wait for an entry
// still get its answer. Needs s.mu.
func (s *shard) evict(now time.Time) bool {
	var victim string
	least := int64(-1)
	looked := 0
	for name, e := range s.names {
		if looked++; looked > sample {
			break
		}
		if w := e.worth(now); least < 0 || w < least {
			victim, least = name, w
		}
	}
	if least < 0 {
		return false
	}
	if e := s.names[victim]; e.inFlight() {
		s.asked[victim] = e
	}
	delete(s.names, victim)
	return true
}

// worth orders entries: those without addresses that can be used first, then by how
// long they were not asked for.
func (e *entry) worth(now time.Time) int64 {
	for f := range e.records {
		if r := e.records[f].Load(); r.usableStale(now) {
			return max(e.used.Load(), 1)
		}
	}
	return 0
}
