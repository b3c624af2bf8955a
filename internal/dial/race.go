package dial

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/caddy-egress/egress/internal/dnscache"
)

const (
	// maxAttempts is how many addresses are dialed for one connection.
	maxAttempts = 8

	// maxConcurrentAttempts is how many of them at the same time.
	maxConcurrentAttempts = 4
)

// contest is a race under way (RFC 8305 §5).
type contest[C io.Closer] struct {
	list    *candidates
	dial    func(context.Context, netip.Addr) (C, error)
	results chan dialed[C]
	started int
	pending int
	err     error // of the first attempt that failed
}

// dialed is what an attempt of a race brought.
type dialed[C io.Closer] struct {
	conn C
	err  error
}

// race dials the candidates one after the other, each after delay or as soon as
// the one before has failed, and takes the first connection that stands. More
// candidates may arrive meanwhile; arrivals is closed when all are there, and nil
// if they are from the beginning. What lost is cancelled at once.
func race[C io.Closer](ctx context.Context, list *candidates, arrivals <-chan dnscache.Answer, delay time.Duration, dial func(context.Context, netip.Addr) (C, error)) (C, error) {
	attempts, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &contest[C]{list: list, dial: dial, results: make(chan dialed[C], maxAttempts)}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	var none C
	due := true // the next may start
	for {
		if due && r.start(attempts) {
			due = false
			timer.Reset(delay)
		}
		if r.pending == 0 && arrivals == nil && due {
			return none, r.failure(ctx)
		}
		select {
		case <-timer.C:
			due = true
		case answer, ok := <-arrivals:
			if !ok {
				arrivals = nil
			}
			list.add(answer)
		case result := <-r.results:
			r.pending--
			if result.err == nil {
				go closeLosers(r.results, r.pending)
				return result.conn, nil
			}
			if r.err == nil {
				r.err = result.err
			}
			due = true
		case <-ctx.Done():
			go closeLosers(r.results, r.pending)
			return none, r.failure(ctx)
		}
	}
}

// start begins the next attempt, if there is one to begin.
func (r *contest[C]) start(ctx context.Context) bool {
	if ctx.Err() != nil || r.started == maxAttempts || r.pending == maxConcurrentAttempts {
		return false
	}
	a, ok := r.list.next()
	if !ok {
		return false
	}
	r.started++
	r.pending++
	go func() {
		conn, err := r.dial(ctx, a)
		r.results <- dialed[C]{conn, err}
	}()
	return true
}

// failure is why a race was won by nobody.
func (r *contest[C]) failure(ctx context.Context) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		// Nobody waits any more: the addresses that were not given their
		// time are no failure of the destination.
		return ctx.Err()
	case r.err != nil:
		return r.err
	case r.started > 0:
		return ctx.Err()
	}
	return r.list.failure(ctx)
}

// closeLosers closes what the attempts that lost the race still bring. Their
// context is cancelled, so they end at once.
func closeLosers[C io.Closer](results <-chan dialed[C], pending int) {
	for range pending {
		if r := <-results; r.err == nil {
			_ = r.conn.Close()
		}
	}
}
