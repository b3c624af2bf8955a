package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// maxUnderWay bounds the requests that are under way. Those that would be more are
// counted, not sent.
const maxUnderWay = 2000

// load sends requests at a rate, whether or not earlier ones have ended, until ctx
// ends or limit of them were sent, and returns when all have ended. The first has
// the given number.
func (l *lab) load(ctx context.Context, p plan, first int64, limit int64, rate float64, t *tally) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, maxUnderWay)
	begin := time.Now()
	for n := int64(0); n < limit; n++ {
		at := begin.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(at)):
		}
		select {
		case room <- struct{}{}:
		default:
			t.skip()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			q := p.request(first + n)
			t.add(l, q, l.do(q))
		})
	}
}

// do makes one request.
func (l *lab) do(q request) outcome {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	var o outcome
	if q.rude == malformedHead {
		o = l.malformed(ctx, q)
	} else if q.method == http.MethodConnect {
		o = l.tunnel(ctx, l.client(q), q)
	} else {
		o = l.exchange(ctx, l.client(q), q)
	}
	o.start, o.end = start, time.Now()
	return o
}

// tally counts outcomes.
type tally struct {
	strict bool // nothing excuses a request that is not whole

	mu          sync.Mutex
	requests    int
	whole       int // or ended as a rude origin, or client, must make them end
	skipped     int
	lanes       map[string]map[string]int // by lane and class
	reasons     map[string]int            // of those that were not whole
	unexplained []string                  // the first of them
	unknown     int                       // how many they are
	slowest     time.Duration             // of those that were whole, with nothing that fails on their way
	slowestOf   request
}

func newTally() *tally {
	return &tally{lanes: make(map[string]map[string]int), reasons: make(map[string]int)}
}

// notedLate is how much later than its effect a fault may be noted.
const notedLate = 3 * time.Second

// maxSamples is how many unexplained outcomes are told.
const maxSamples = 20

func (t *tally) add(l *lab, q request, o outcome) {
	reason := ""
	if !q.rude.ends(o) && !t.strict {
		if reason = l.explain(q, o); reason == "" {
			time.Sleep(notedLate)
			reason = l.explain(q, o)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	lane := q.lane()
	if t.lanes[lane] == nil {
		t.lanes[lane] = make(map[string]int)
	}
	t.lanes[lane][o.class]++
	t.requests++
	switch {
	case q.rude.ends(o):
		t.whole++
		if took := o.end.Sub(o.start); q.clean() && took > t.slowest {
			t.slowest, t.slowestOf = took, q
		}
	case reason != "":
		t.reasons[reason]++
	default:
		if t.unknown++; len(t.unexplained) < maxSamples {
			t.unexplained = append(t.unexplained, fmt.Sprintf("%s %v: %s after %v: %v",
				o.end.Format("15:04:05.000"), q, o.class, o.end.Sub(o.start).Round(time.Millisecond), o.err))
		}
	}
}

func (t *tally) skip() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	t.skipped++
}
