package egress

import (
	"context"
	"fmt"
	"sync"
)

// This file contains a bound for loops that nobody recognises: through a SOCKS proxy,
// whose protocol has no Via, or through one that takes Via away.

// maxOpening is how many tunnels of one client to one destination may be opened through
// one upstream at a time; the next ones wait until one of them stands. In a loop each
// request waits for the next one, all from the last hop, and none ever stands: no more
// than these are nested when the first one's time is over, which ends all. Others take
// their turn a little later.
//
// It is a sixteenth of the file descriptors that the process may have, of which each
// takes two, and never so few that it is met without a loop.
var maxOpening = int(min(max(descriptorLimit()/16, 64), 1024))

// openings are the tunnels that are being opened through one upstream.
type openings struct {
	mu    sync.Mutex
	turns map[turnOf]*turns // guarded by mu
}

// turnOf is what tunnels have in common that take turns.
type turnOf struct {
	host   string
	port   uint16
	client string
}

type turns struct {
	running int
	waiting []chan struct{} // oldest first; closed when it is one's turn
}

var errOpening = fmt.Errorf("%d tunnels of the client to the destination are being opened through the upstream: it may lead back here", maxOpening)

// enter waits for a turn, which the caller ends with leave.
func (o *openings) enter(ctx context.Context, of turnOf) error {
	o.mu.Lock()
	t := o.turns[of]
	if t == nil {
		if o.turns == nil {
			o.turns = make(map[turnOf]*turns)
		}
		t = new(turns)
		o.turns[of] = t
	}
	if t.running < maxOpening && len(t.waiting) == 0 {
		t.running++
		o.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	t.waiting = append(t.waiting, mine)
	o.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, c := range t.waiting {
		if c == mine {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			o.forget(of, t)
			return &explained{failLimit, errOpening}
		}
	}
	return nil // it was given the turn just now
}

// leave ends a turn. A tunnel that stands shows that there is no loop: then those who
// have waited longest go on. One that has failed shows nothing, and if it let another
// one go, a loop would go on for ever.
func (o *openings) leave(of turnOf, stands bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.turns[of]
	t.running--
	for stands && t.running < maxOpening && len(t.waiting) > 0 {
		close(t.waiting[0])
		t.waiting = t.waiting[1:]
		t.running++
	}
	o.forget(of, t)
}

// forget drops turns that nobody has or waits for. mu is held.
func (o *openings) forget(of turnOf, t *turns) {
	if t.running == 0 && len(t.waiting) == 0 {
		delete(o.turns, of)
	}
}
