package main

import (
	"context"
	"fmt"
	"time"
)

// reloads loads another configuration each time interval has passed.
func (l *lab) reloads(ctx context.Context, interval time.Duration) (n int) {
	for every(ctx, interval) {
		n++
		end := l.times.begin(&l.times.reloads)
		err := l.egress.load(l.egressConfig(n))
		end(time.Now().Add(l.reloadReach()))
		if err != nil {
			l.broken.add("reload %d: %v", n, err)
		}
	}
	return n
}

// kills kills one upstream proxy after the other, each time interval has passed,
// and starts it again after a third of that. The other one serves meanwhile.
func (l *lab) kills(ctx context.Context, interval time.Duration) (n int) {
	for every(ctx, interval-interval/3) {
		victim := l.parents[n%len(l.parents)]
		n++
		end := l.times.begin(&l.times.kills)
		victim.kill()
		end(time.Now())
		every(ctx, interval/3)
		// Not ctx: it outlives the load.
		if err := victim.start(context.Background()); err != nil {
			l.broken.add("starting %s again: %v", victim.name, err)
			return n
		}
	}
	return n
}

// watchStalls takes note of times at which the machine is so busy that this process
// does not run when it is due.
func (l *lab) watchStalls(ctx context.Context) {
	const tick, late = 100 * time.Millisecond, 2 * time.Second
	for last := time.Now(); every(ctx, tick); last = time.Now() {
		if time.Since(last) > late {
			l.times.mu.Lock()
			l.times.stalls = append(l.times.stalls, span{last, time.Now()})
			l.times.mu.Unlock()
		}
	}
}

// every waits for an interval, unless ctx ends before. An interval of 0 never
// passes.
func every(ctx context.Context, interval time.Duration) bool {
	var passed <-chan time.Time
	if interval > 0 {
		passed = time.After(interval)
	}
	select {
	case <-passed:
		return true
	case <-ctx.Done():
		return false
	}
}

// progress tells each interval what is going on.
func (l *lab) progress(ctx context.Context, interval time.Duration, t *tally, say func(string)) {
	for begin := time.Now(); every(ctx, interval); {
		s, err := l.egress.snapshot(false)
		if err != nil {
			say(fmt.Sprintf("no figures: %v", err))
			continue
		}
		t.mu.Lock()
		say(fmt.Sprintf("%6v  %d requests, %d whole, %d unexplained, %d violations; %v",
			time.Since(begin).Round(time.Second), t.requests, t.whole, t.unknown, len(l.broken.all()), s))
		t.mu.Unlock()
	}
}
