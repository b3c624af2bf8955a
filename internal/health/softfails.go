package health

import "sync/atomic"

// softFails remembers the destinations of a group's last soft failures, so that a
// success elsewhere need not look at every member. It is a set-associative table
// without a lock: a set forgets its oldest entry, and two callers at once may lose
// one. That loses evidence, no more.
type softFails [64][4]atomic.Uint64

func (f *softFails) set(destination uint64) *[4]atomic.Uint64 {
	return &f[destination%uint64(len(f))]
}

// add remembers a destination as the newest of its set.
func (f *softFails) add(destination uint64) {
	set := f.set(destination)
	next := destination
	for i := range set {
		last := set[i].Swap(next)
		if last == destination || last == 0 {
			return
		}
		next = last
	}
}

// take tells whether a destination is remembered, and forgets it.
func (f *softFails) take(destination uint64) bool {
	set := f.set(destination)
	for i := range set {
		if set[i].Load() == destination && set[i].CompareAndSwap(destination, 0) {
			return true
		}
	}
	return false
}
