package health

import "sync"

// hangUps remembers destinations of which exchanges ended without an answer, or with
// one that only an upstream should give. An upstream may pass on in this way what the
// destination has done (tinyproxy closes when the origin closes): where several members
// fail alike, it is the destination.
type hangUps struct {
	mu    sync.Mutex
	known map[uint64]hangUp
}

type hangUp struct {
	first   *Upstream // that failed so
	several bool      // another one has, too
	at      instant   // the last time
}

// several records that an exchange with a destination ended so, and reports whether
// that has happened through another member as well, not long ago and with no answer
// between.
func (h *hangUps) several(now instant, u *Upstream, destination uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.known[destination]
	if !ok || now.sub(last.at) > suspicionWindow {
		if !ok {
			h.makeRoom(now)
		}
		last = hangUp{first: u}
	}
	last.several = last.several || last.first != u
	last.at = now
	h.known[destination] = last
	return last.several
}

// makeRoom forgets what is old, and if that is not enough any of the rest: that loses
// evidence, no more.
func (h *hangUps) makeRoom(now instant) {
	if h.known == nil {
		h.known = make(map[uint64]hangUp)
	}
	if len(h.known) < maxSoftFails {
		return
	}
	for d, k := range h.known {
		if now.sub(k.at) > suspicionWindow {
			delete(h.known, d)
		}
	}
	for d := range h.known {
		if len(h.known) < maxSoftFails {
			return
		}
		delete(h.known, d)
	}
}

// answered forgets a destination that was reached.
func (h *hangUps) answered(destination uint64) {
	h.mu.Lock()
	delete(h.known, destination)
	h.mu.Unlock()
}
