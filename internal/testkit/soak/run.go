package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// options are what a run is made of.
type options struct {
	mode   string // faults or soak
	seed   uint64
	length time.Duration
	rate   float64 // requests a second
	reload time.Duration
	kill   time.Duration
	// patience is when a client gives up. Only a black hole makes it wait so long.
	patience time.Duration
	// calm is how many requests are made before the first look at what the proxy
	// holds, and again when it is over. Nothing fails then, and each of them has
	// to be whole.
	calm   int64
	binary []string // Caddy with egress; empty: built from source
	dir    string   // for what the processes write
}

// The modes.
const (
	modeFaults = "faults"
	modeSoak   = "soak"
)

// result is what a run has brought.
type result struct {
	options
	start, end     snapshot
	tally          *tally
	links          []*link
	reloads, kills int
	stalls         int // times at which the machine was too busy to tell
	violations     []string
}

// The numbers of requests that are made while nothing fails lie far from those of
// the load.
const (
	firstBefore  = 1 << 40
	firstAfter   = 1 << 41
	firstIgnored = 1 << 42
)

// run runs one mode from start to end. It returns an error where it could not: what
// the proxy did wrong is in the result.
func run(ctx context.Context, o options, say func(string)) (_ *result, err error) {
	if len(o.binary) == 0 {
		say("building cmd/caddy")
		binary, err := build(ctx, o.dir)
		if err != nil {
			return nil, err
		}
		o.binary = []string{binary}
	}
	// The processes outlive the load's context: what comes after it needs them.
	l, err := newLab(context.WithoutCancel(ctx), o)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, l.stop())
		}
	}()
	res := &result{options: o, tally: newTally(), links: l.links.all()}
	l.calmly(ctx, firstBefore)
	if res.start, err = l.baseline(); err != nil {
		return nil, err
	}
	say(fmt.Sprintf("at the start: %v", res.start))
	if err := l.underLoad(ctx, res, say); err != nil {
		return nil, err
	}
	if res.end, err = l.verify(res.start); err != nil {
		return nil, err
	}
	stopped = true
	if err := l.stop(); err != nil {
		l.broken.add("at the end: %v", err)
	}
	for _, c := range []*caddy{l.egress, l.parents[0], l.parents[1]} {
		if err := c.complaints(); err != nil {
			l.broken.add("%v", err)
		}
	}
	res.violations = l.broken.all()
	return res, nil
}

// calmly makes requests while nothing fails.
func (l *lab) calmly(ctx context.Context, first int64) {
	t := newTally()
	t.strict = true
	l.load(ctx, l.plan, first, l.calm, 100, t)
	for _, s := range t.unexplained {
		l.broken.add("while nothing fails: %s", s)
	}
}

// underLoad is the part of a run in which things happen.
func (l *lab) underLoad(ctx context.Context, res *result, say func(string)) error {
	restart := func(how func(*link) error) error {
		var errs []error
		for _, link := range l.links.all() {
			errs = append(errs, how(link))
		}
		return errors.Join(errs...)
	}
	if l.plan.faults {
		if err := restart((*link).storm); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, res.length)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { l.watchStalls(ctx) })
	wg.Go(func() { res.reloads = l.reloads(ctx, res.reload) })
	wg.Go(func() { res.kills = l.kills(ctx, res.kill) })
	wg.Go(func() { l.progress(ctx, max(res.length/20, time.Second), res.tally, say) })
	wg.Go(func() { l.load(ctx, l.plan, 0, math.MaxInt64, res.rate, res.tally) })
	<-ctx.Done()
	var err error
	if l.plan.faults { // who waits in a black hole need not wait longer
		err = restart((*link).calm)
	}
	wg.Wait()
	res.stalls = len(l.times.stalls)
	return err
}

// good reports whether the proxy has kept its promises. An error that nothing
// explains breaks one.
func (r *result) good() bool {
	return len(r.violations) == 0 && r.tally.unknown == 0 && r.tally.skipped == 0
}
