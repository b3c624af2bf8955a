package connpool

import "time"

// The janitor closes idle connections that have expired. It is a timer that
// is armed by the first connection to become idle and that arms itself while
// any is: no goroutine while nothing is to be done.

// arm makes the janitor look at the given moment, or a little earlier or
// later. The case that it will anyway costs one atomic load.
func (p *Pool[K, C]) arm(at time.Duration) {
	if w := p.wakeAt.Load(); w != 0 && w <= int64(at+p.slack) {
		return
	}
	p.timerMu.Lock()
	defer p.timerMu.Unlock()
	if w := p.wakeAt.Load(); p.closed.Load() || w != 0 && w <= int64(at) {
		return
	}
	p.wakeAt.Store(int64(at))
	d := max(at-p.now(), 0)
	if p.timer == nil {
		p.timer = time.AfterFunc(d, p.sweep)
	} else {
		p.timer.Reset(d)
	}
}

// sweep closes what has expired and arms the janitor for what has not.
//
// A connection that becomes idle meanwhile is not forgotten: if park saw the
// timer armed, it had put the connection in its list before wakeAt was
// cleared, and the loop finds it; if not, it arms the timer itself.
func (p *Pool[K, C]) sweep() {
	p.wakeAt.Store(0)
	var next time.Duration
	for h := range p.hosts(hasIdle) {
		h.mu.Lock()
		stale, at := h.takeExpired(p.now())
		p.unlock(h)
		p.after(stale)
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if next != 0 {
		// Those that expire soon after each other are closed together.
		p.arm(max(next, p.now()+p.slack))
	}
}

// stopJanitor is called once the pool is closed, or keeps nothing idle any more.
func (p *Pool[K, C]) stopJanitor() {
	p.timerMu.Lock()
	defer p.timerMu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
}
