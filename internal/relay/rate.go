package relay

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// minBurst is the least that a bucket holds, however low its rate.
	minBurst = 4 << 10

	// minPiece is the least that moves at once because of a rate.
	minPiece = 512
)

// Rate is a limit in bytes per second: a token bucket that any number of
// directions of any number of relays may share. What they deliver within any t
// seconds is never more than t times the rate plus Burst.
//
// Those who share a rate are served in the order in which they ask, in small
// pieces, so that none starves.
type Rate struct {
	piece atomic.Int64

	// mu is held from reading the clock to telling the bucket the time. The
	// bucket would take a time earlier than the last one for a pause, and
	// give bytes for it.
	mu     sync.Mutex
	bucket *rate.Limiter
}

// NewRate makes a limit of so many bytes per second, at least 1, whose bucket is
// full.
func NewRate(bytesPerSecond int64) *Rate {
	bps := max(bytesPerSecond, 1)
	r := &Rate{bucket: rate.NewLimiter(rate.Limit(bps), burst(bps))}
	r.piece.Store(piece(bps))
	return r
}

// Set changes the limit, also while it is in use.
func (r *Rate) Set(bytesPerSecond int64) {
	bps := max(bytesPerSecond, 1)
	r.piece.Store(piece(bps))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bucket.SetBurst(burst(bps))
	r.bucket.SetLimit(rate.Limit(bps))
}

// Burst is how many bytes may pass at once after a pause: what the rate allows
// in a quarter of a second, but at least 4 KiB.
func (r *Rate) Burst() int { return r.bucket.Burst() }

// Recovery is how long it takes, if nothing passes, until the bucket is full: then
// the limit is no other than a new one. 0 if it is full.
func (r *Rate) Recovery() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	missing := float64(r.bucket.Burst()) - r.bucket.TokensAt(time.Now())
	if missing <= 0 {
		return 0
	}
	// Rounded up, so that the time is over when it is waited for.
	return time.Duration(missing/float64(r.bucket.Limit())*float64(time.Second)) + 1
}

func burst(bps int64) int { return int(min(max(bps/4, minBurst), math.MaxInt32)) }

// piece is what a direction moves at once: little enough that a slow one does not
// stop and go, and never more than the burst.
func piece(bps int64) int64 { return min(max(bps/20, minPiece), math.MaxInt32) }

// errStopped is what a direction that waits for its turn gets when the tunnel
// ends. It is never seen: the tunnel has another reason then.
var errStopped = errors.New("relay: ended")

// pacer makes a direction keep to its rates.
type pacer struct {
	rates []*Rate
	stop  <-chan struct{} // closed when the tunnel ends

	timer *time.Timer
	taken []reservation
}

// reservation is what a direction has taken from a bucket.
type reservation struct {
	from *Rate
	*rate.Reservation
}

// newPacer returns nil where there is nothing to keep to.
func newPacer(rates []*Rate, stop <-chan struct{}) *pacer {
	if len(rates) == 0 {
		return nil
	}
	return &pacer{rates: rates, stop: stop}
}

// piece is how many bytes the direction should move at once.
func (p *pacer) piece() int {
	n := p.rates[0].piece.Load()
	for _, r := range p.rates[1:] {
		n = min(n, r.piece.Load())
	}
	return int(n)
}

// wait takes n bytes from every bucket and waits until it may deliver them. If
// the tunnel ends first, it puts them back.
func (p *pacer) wait(n int) error {
	delay := p.take(n)
	defer clear(p.taken)
	if delay == 0 {
		return nil
	}
	if p.timer == nil {
		p.timer = time.NewTimer(delay)
	} else {
		p.timer.Reset(delay)
	}
	select {
	case <-p.timer.C:
		return nil
	case <-p.stop:
		p.timer.Stop()
		for _, t := range p.taken {
			t.from.mu.Lock()
			t.CancelAt(time.Now())
			t.from.mu.Unlock()
		}
		return errStopped
	}
}

// take reserves n bytes in every bucket and returns how long it is until the last
// of them come.
func (p *pacer) take(n int) (delay time.Duration) {
	p.taken = p.taken[:0]
	for _, r := range p.rates {
		delay = max(delay, p.takeFrom(r, n))
	}
	return delay
}

// takeFrom reserves n bytes in a bucket, in parts if they are more than it can
// hold since its rate was changed.
func (p *pacer) takeFrom(r *Rate, n int) (delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for n > 0 {
		part := min(n, r.bucket.Burst())
		t := r.bucket.ReserveN(now, part)
		p.taken = append(p.taken, reservation{r, t})
		delay = max(delay, t.DelayFrom(now))
		n -= part
	}
	return delay
}
