package upstream

import (
	"fmt"
	"sync"

	"github.com/caddy-egress/egress/internal/descriptors"
	"github.com/caddy-egress/egress/internal/failure"
)

// This file contains a bound for loops that nobody recognises: through a SOCKS proxy,
// whose protocol has no Via, or through one that takes Via away.

// maxOpening is how many tunnels of one client to one destination may be opened through
// one upstream at a time. In a loop each request waits for the next one, all from the
// last hop, until one is refused, and with it all others.
//
// It is a quarter of the file descriptors that the process may have, of which each takes
// two. Many users behind one address, whose destination is slow to answer, can meet it
// without a loop, but not before they have taken half of what there is.
var maxOpening = min(max(descriptors.Limit()/4, 256), 8192)

// openings are the tunnels that are being opened through one upstream.
type openings struct {
	mu      sync.Mutex
	running map[Opening]int // guarded by mu
}

// Opening is what tunnels have in common that are counted together.
type Opening struct {
	Host   string // of the destination
	Port   uint16 // of the destination
	Client string // its address
}

var errOpening = fmt.Errorf("%d tunnels of the client to the destination are being opened through the upstream: it may lead back here", maxOpening)

// enter counts a tunnel, until leave is called. Where there are too many it returns an
// error, and does not.
func (o *openings) enter(of Opening) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running[of] >= maxOpening {
		return failure.Limit.Because(errOpening)
	}
	if o.running == nil {
		o.running = make(map[Opening]int)
	}
	o.running[of]++
	return nil
}

func (o *openings) leave(of Opening) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running[of]--; o.running[of] == 0 {
		delete(o.running, of)
	}
}
