package relay

import (
	"errors"
	"math"
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
	bucket *rate.Limiter
	piece  atomic.Int64
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
	r.bucket.SetBurst(burst(bps))
	r.bucket.SetLimit(rate.Limit(bps))
}

// Burst is how many bytes may pass at once after a pause: what the rate allows
// in a quarter of a second, but at least 4 KiB.
func (r *Rate) Burst() int { return r.bucket.Burst() }

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
	taken []*rate.Reservation
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
	now := time.Now()
	delay := p.take(now, n)
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
		now = time.Now()
		for _, t := range p.taken {
			t.CancelAt(now)
		}
		return errStopped
	}
}

// take reserves n bytes in every bucket and returns when the last of them come.
func (p *pacer) take(now time.Time, n int) (delay time.Duration) {
	p.taken = p.taken[:0]
	for _, r := range p.rates {
		for left := n; left > 0; {
			part := min(left, r.Burst())
			t := r.bucket.ReserveN(now, part)
			if !t.OK() {
				continue // the burst has just become smaller
			}
			p.taken = append(p.taken, t)
			delay = max(delay, t.DelayFrom(now))
			left -= part
		}
	}
	return delay
}
