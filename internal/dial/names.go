package dial

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/shared"
)

// resolutionDelay is how long the addresses of the family that comes first are
// waited for when those of the other are there (RFC 8305 §3).
const resolutionDelay = 50 * time.Millisecond

// Names is what is known of names and addresses. It lives in a
// caddy.UsagePool, so that a reload which leaves the resolver as it is forgets
// nothing.
type Names struct {
	cache  *dnscache.Cache
	failed *failedAddrs
}

// NewNames is what is known of names, beginning with a cache.
func NewNames(cache *dnscache.Cache) *Names {
	return &Names{cache: cache, failed: new(failedAddrs)}
}

// SharedNames are the states by the settings that matter to them.
var SharedNames = shared.NewPool[*Names]()

// Destruct closes what waits for its next use. Requests of an old configuration
// may go on asking.
func (n *Names) Destruct() error {
	n.cache.CloseIdle()
	return nil
}

// resolve puts the addresses of a name that are known into list. Those that are
// not come over the channel that is returned, which is closed behind the last;
// it is nil if nothing more will come. It is served until ctx ends.
func (n *Names) resolve(ctx context.Context, host string, order FamilyOrder, list *candidates) <-chan dnscache.Answer {
	var l lookups
	for _, f := range [...]dnscache.Family{order.First, 1 - order.First} {
		if !order.allows(f) {
			continue
		}
		answer, flight := n.cache.Lookup(host, f)
		switch {
		case flight == nil && l.first == nil:
			list.add(answer)
		case flight == nil:
			l.early = answer // for the delay: the other family comes first
		case f == order.First:
			l.first = flight
		default:
			l.second = flight
		}
	}
	if l.first == nil && l.second == nil {
		return nil
	}
	list.flights = [...]*dnscache.Flight{l.first, l.second}
	arrivals := make(chan dnscache.Answer)
	go l.deliver(ctx, arrivals)
	return arrivals
}

// lookups are the questions about a name that are under way: of the family that
// comes first, and of the other one. Either may be nil.
type lookups struct {
	first, second *dnscache.Flight
	early         dnscache.Answer // of the other family, if it was known
}

// deliver sends answers as they come in. One of the second family waits a moment
// for the first.
func (l *lookups) deliver(ctx context.Context, to chan<- dnscache.Answer) {
	defer close(to)
	for _, fl := range [...]*dnscache.Flight{l.first, l.second} {
		if fl != nil {
			defer fl.Leave()
		}
	}
	if l.first == nil {
		land(ctx, l.second, nil, to)
		return
	}
	second := l.second
	if second != nil {
		select {
		case <-l.first.Done():
		case <-second.Done():
			l.early, second = second.Answer(), nil
		case <-ctx.Done():
			return
		}
	}
	if second == nil && len(l.early.Addrs) > 0 {
		delay := time.NewTimer(resolutionDelay)
		defer delay.Stop()
		if !land(ctx, l.first, delay.C, to) {
			send(ctx, to, l.early)
			land(ctx, l.first, nil, to)
			return
		}
	} else {
		land(ctx, l.first, nil, to)
	}
	if second == nil {
		send(ctx, to, l.early)
		return
	}
	land(ctx, second, nil, to)
}

// land sends the answer of a flight when it is there, and reports whether it was
// in time.
func land(ctx context.Context, fl *dnscache.Flight, late <-chan time.Time, to chan<- dnscache.Answer) bool {
	select {
	case <-fl.Done():
		send(ctx, to, fl.Answer())
		return true
	case <-late:
		return false
	case <-ctx.Done():
		return false
	}
}

func send(ctx context.Context, to chan<- dnscache.Answer, answer dnscache.Answer) {
	select {
	case to <- answer:
	case <-ctx.Done():
	}
}

const (
	// failedFor is how long an address that failed is tried last.
	failedFor = time.Minute

	// maxFailedAddrs is how many are remembered.
	maxFailedAddrs = 4096
)

// failedAddrs are addresses that could not be connected to lately. The zero value
// is ready to use.
type failedAddrs struct {
	count atomic.Int32 // so that nothing is locked while nothing fails
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func (f *failedAddrs) Has(a netip.AddrPort) bool {
	if f.count.Load() == 0 {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	until, ok := f.until[a]
	if ok && !time.Now().Before(until) {
		f.remove(a)
		return false
	}
	return ok
}

func (f *failedAddrs) mark(a netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil {
		f.until = make(map[netip.AddrPort]time.Time)
	}
	if _, ok := f.until[a]; !ok && len(f.until) >= maxFailedAddrs {
		f.makeRoom()
	}
	f.until[a] = time.Now().Add(failedFor)
	f.count.Store(int32(len(f.until)))
}

func (f *failedAddrs) clear(a netip.AddrPort) {
	if f.count.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(a)
}

// remove needs f.mu.
func (f *failedAddrs) remove(a netip.AddrPort) {
	delete(f.until, a)
	f.count.Store(int32(len(f.until)))
}

// descriptors.MakeRoom takes out what is over among a few, or one that the map picks at
// random. Needs f.mu.
func (f *failedAddrs) makeRoom() {
	now, looked := time.Now(), 0
	var last netip.AddrPort
	for a, until := range f.until {
		if last = a; !now.Before(until) {
			delete(f.until, a)
		}
		if looked++; looked == 8 {
			break
		}
	}
	delete(f.until, last)
}
