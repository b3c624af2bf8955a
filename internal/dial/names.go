package dial

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/timing"
	"github.com/caddy-egress/egress/internal/tracing"
)

// resolutionDelay is how long the addresses of the family that comes first are
// waited for when those of the other are there (RFC 8305 §3).
const resolutionDelay = 50 * time.Millisecond

// Names is what is known of names and addresses. It lives in a
// caddy.UsagePool, so that a reload which leaves the resolver as it is forgets
// nothing.
type Names struct {
	cache  *dnscache.Cache
	failed *FailedAddrs
}

// NewNames is what is known of names, beginning with a cache.
func NewNames(cache *dnscache.Cache) *Names {
	return &Names{cache: cache, failed: new(FailedAddrs)}
}

// Len is how many names are remembered.
func (n *Names) Len() int { return n.cache.Len() }

// Report tells what is known of names now.
func (n *Names) Report() dnscache.Report { return n.cache.Report() }

// Look tells what is remembered of a name, and asks for nothing.
func (n *Names) Look(name string) []dnscache.Known { return n.cache.Look(name) }

// Forget forgets what DNS servers have said of a name, or with "" of all, and reports of how
// many names. Addresses that have failed are forgotten with all.
func (n *Names) Forget(name string) int {
	if name == "" {
		n.failed.forgetAll()
	}
	return n.cache.Forget(name)
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
func (n *Names) resolve(ctx context.Context, host string, order FamilyOrder, list *candidates, to Recorder) <-chan dnscache.Answer {
	var l lookups
	for _, f := range [...]dnscache.Family{order.First, 1 - order.First} {
		if !order.allows(f) {
			continue
		}
		answer, flight := n.cache.Lookup(host, f)
		if to != nil {
			result := Miss
			if flight == nil {
				result = lookupOf(&answer)
			}
			to.LookedUp(result)
		}
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
	l.to, l.begun, l.clock = to, time.Now(), timing.Of(ctx)
	list.flights = [...]*dnscache.Flight{l.first, l.second}
	_, l.span = tracing.StartClient(ctx, "egress.dns")
	l.span.Set(tracing.Question, host)
	arrivals := make(chan dnscache.Answer)
	go l.deliver(ctx, arrivals)
	return arrivals
}

// lookups are the questions about a name that are under way: of the family that
// comes first, and of the other one. Either may be nil.
type lookups struct {
	first, second *dnscache.Flight
	early         dnscache.Answer // of the other family, if it was known
	span          tracing.Span

	to    Recorder // nil for none
	clock *timing.Clock
	begun time.Time
}

// landed is the answer of a flight that is over.
func (l *lookups) landed(fl *dnscache.Flight) dnscache.Answer {
	answer := fl.Answer()
	l.clock.Since(timing.DNS, l.begun, answer.Err == nil)
	if l.to != nil {
		l.to.Resolved(time.Since(l.begun), lookupOf(&answer))
	}
	return answer
}

// endSpan ends the span of the lookups: when all answers are there, or nobody waits for
// more.
func (l *lookups) endSpan(ctx context.Context) {
	if !l.span.On() {
		return
	}
	defer l.span.End()
	answers := []dnscache.Answer{l.early}
	for _, fl := range [...]*dnscache.Flight{l.first, l.second} {
		if fl != nil && fl.Over() {
			answers = append(answers, fl.Answer())
		}
	}
	err := ctx.Err()
	for _, a := range answers {
		if len(a.Addrs) > 0 {
			return
		}
		err = cmp.Or(a.Err, err)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		l.span.Fail(failure.DNSTimeout.Type)
	case err != nil:
		l.span.Fail(cmp.Or(failure.Of(err).Type, tracing.Canceled))
	}
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
	defer l.endSpan(ctx)
	if l.first == nil {
		l.land(ctx, l.second, nil, to)
		return
	}
	second := l.second
	if second != nil {
		select {
		case <-l.first.Done():
		case <-second.Done():
			l.early, second = l.landed(second), nil
		case <-ctx.Done():
			return
		}
	}
	if second == nil && len(l.early.Addrs) > 0 {
		delay := time.NewTimer(resolutionDelay)
		defer delay.Stop()
		if !l.land(ctx, l.first, delay.C, to) {
			send(ctx, to, l.early)
			l.land(ctx, l.first, nil, to)
			return
		}
	} else {
		l.land(ctx, l.first, nil, to)
	}
	if second == nil {
		send(ctx, to, l.early)
		return
	}
	l.land(ctx, second, nil, to)
}

// land sends the answer of a flight when it is there, and reports whether it was
// in time.
func (l *lookups) land(ctx context.Context, fl *dnscache.Flight, late <-chan time.Time, to chan<- dnscache.Answer) bool {
	select {
	case <-fl.Done():
		send(ctx, to, l.landed(fl))
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

// FailedAddrs are addresses that could not be connected to lately. The zero value
// is ready to use. It is safe for concurrent use.
type FailedAddrs struct {
	count atomic.Int32 // so that nothing is locked while nothing fails
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

// Has reports whether it failed lately.
func (f *FailedAddrs) Has(a netip.AddrPort) bool {
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

func (f *FailedAddrs) forgetAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.until)
	f.count.Store(0)
}

// Mark notes that it has failed.
func (f *FailedAddrs) Mark(a netip.AddrPort) {
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

// Clear notes that it was connected to.
func (f *FailedAddrs) Clear(a netip.AddrPort) {
	if f.count.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(a)
}

// remove needs f.mu.
func (f *FailedAddrs) remove(a netip.AddrPort) {
	delete(f.until, a)
	f.count.Store(int32(len(f.until)))
}

// descriptors.MakeRoom takes out what is over among a few, or one that the map picks at
// random. Needs f.mu.
func (f *FailedAddrs) makeRoom() {
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
