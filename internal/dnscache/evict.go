package dnscache

import "time"

// sample is how many entries are looked at to find one that can go.
const sample = 8

// admit puts an entry among the names that are remembered, in place of another one if
// the shard is full. An entry that finds no place serves those who wait for it and is
// forgotten: a full cache refuses nobody. One without addresses takes the place of its
// like only, and none at all where nobody waits for it. Needs s.mu.
func (s *shard) admit(name string, e *entry, awaited bool, now time.Time) {
	if e.forgotten || s.names[name] != nil || s.asked[name] != nil && s.asked[name] != e {
		return // it is there, or a newer one is
	}
	worth := e.worth(now)
	if !awaited && worth == 0 || len(s.names) >= s.max && !s.evict(worth > 0, now) {
		return
	}
	delete(s.asked, name)
	s.names[name] = e
}

// evict takes out the entry that is worth least among a few, which the map
// picks at random, and reports whether there was one. It looks at entries
// without an answer or with a negative one first, and takes out no other for one that is
// not good, so that a client that asks for names which do not exist pushes out its own. Those who
// wait for an entry still get its answer. Needs s.mu.
func (s *shard) evict(good bool, now time.Time) bool {
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
	if least < 0 || least > 0 && !good {
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
