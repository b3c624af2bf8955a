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
		from := time.Now()
		err := l.egress.load(l.egressConfig(n))
		l.times.reloaded(from, time.Now().Add(l.reloadReach()))
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
		from := time.Now()
		victim.kill()
		l.times.killed(from, time.Now())
		every(ctx, interval/3)
		// Not ctx: it outlives the load.
		if err := victim.start(context.Background()); err != nil {
			l.broken.add("starting %s again: %v", victim.name, err)
			return n
		}
	}
	return n
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
