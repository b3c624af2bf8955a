package health

import "sync"

// hangUps remembers hosts of which exchanges ended without an answer, or with
// one that only an upstream should give. An upstream may pass on in this way what the
// destination has done (tinyproxy closes when the origin closes): where several members
// fail alike, it is the destination.
type hangUps struct {
	mu    sync.Mutex
	known map[uint64]hangUp // by host
}

type hangUp struct {
	first   *Upstream // that failed so
	several bool      // another one has failed for it, too
	at      instant   // the last time
}

// several records that a destination failed through a member, and reports whether another
// member has failed for it as well, not long ago and with no answer between. At the first
// time that is so, it returns the member that failed first.
func (h *hangUps) several(now instant, u *Upstream, destination uint64) (several bool, first *Upstream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	destination = hostOf(destination)
	last, ok := h.known[destination]
	if !ok || now.sub(last.at) > suspicionWindow {
		if !ok {
			h.makeRoom(now)
		}
		last = hangUp{first: u}
	}
	if !last.several && last.first != u {
		last.several, first = true, last.first
	}
	last.at = now
	h.known[destination] = last
	return last.several, first
}

// failing reports whether the host of a destination has failed not long ago, with no
// answer since.
func (h *hangUps) failing(now instant, destination uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.known[hostOf(destination)]
	return ok && now.sub(last.at) <= suspicionWindow
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
	delete(h.known, hostOf(destination))
	h.mu.Unlock()
}
