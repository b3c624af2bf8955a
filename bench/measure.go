//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// series is what the rounds of an experiment have brought for one subject, in
// the experiment's unit for one operation.
type series struct {
	subject  string
	total    []float64
	user     []float64
	p50, p99 []float64 // µs
	errors   int64
	first    string
}

// add takes in what one round has brought. What goes wrong while warming up
// counts as well.
func (s *series) add(e experiment, round int, cost cpuTime, result loadResult) {
	if result.Errors > 0 {
		s.errors += result.Errors
		if s.first == "" {
			s.first = result.First
		}
	}
	if round < 0 || result.OK == 0 {
		return
	}
	per := time.Duration(result.OK)
	s.total = append(s.total, e.inUnit(cost.total()/per))
	s.user = append(s.user, e.inUnit(cost.user/per))
	s.p50 = append(s.p50, result.P50)
	s.p99 = append(s.p99, result.P99)
}

// run starts the subjects of an experiment, warms them up, and measures them in
// turn, round after round, each time beginning with another one.
func (l *lab) run(e experiment, rounds int, progress func(string)) ([]series, error) {
	proxies := l.startAll(e)
	out := make([]series, len(proxies))
	for i, p := range proxies {
		defer p.stop()
		out[i].subject = p.name
	}
	for round := -1; round < rounds; round++ { // -1 is the warm-up
		for i := range proxies {
			turn := (i + max(round, 0)) % len(proxies)
			cost, result, err := l.measure(proxies[turn], e)
			if l.ctx.Err() != nil {
				return nil, context.Cause(l.ctx)
			}
			if err != nil { // of this subject: the others go on
				result = loadResult{Errors: 1, First: err.Error()}
			}
			out[turn].add(e, round, cost, result)
		}
		progress(fmt.Sprintf("%s: round %d of %d", e.name, round+1, rounds))
	}
	return out, nil
}

// startAll starts the subjects of an experiment that are there. One that does
// not start is skipped: the others are worth their time all the same.
func (l *lab) startAll(e experiment) (proxies []*proxy) {
	for _, name := range e.subjects {
		if !l.present(name) {
			continue
		}
		p, err := l.start(name)
		if err != nil {
			l.skip(e.name, err)
			continue
		}
		proxies = append(proxies, p)
	}
	return proxies
}

// afterwards is how long a proxy is given to finish what it does when the last
// answer is out: closing connections is part of an operation.
const afterwards = 100 * time.Millisecond

// measure runs a load through a proxy once, and returns what it cost the proxy.
// What the origin has seen is held against what the generator has sent.
func (l *lab) measure(p *proxy, e experiment) (cost cpuTime, result loadResult, err error) {
	var seenBefore, seenAfter originSeen
	if err := l.origin.ask(&seenBefore); err != nil {
		return cost, result, err
	}
	before, err := cpu(p.pids...)
	if err != nil {
		return cost, result, err
	}
	if result, err = l.generate(p, e.listener, e.load); err != nil {
		return cost, result, err
	}
	time.Sleep(afterwards)
	after, err := cpu(p.pids...)
	if err != nil {
		return cost, result, err
	}
	if err := l.origin.ask(&seenAfter); err != nil {
		return cost, result, err
	}
	want := result.Seen
	if p.fixed {
		want = 0
	}
	seen := seenAfter.Requests - seenBefore.Requests + seenAfter.Tunnels - seenBefore.Tunnels
	result.compare("seen by the origin", seen, want)
	result.compare("refused by the origin", seenAfter.Bad-seenBefore.Bad, 0)
	return after.sub(before), result, nil
}

// compare counts a difference as so many errors.
func (r *loadResult) compare(what string, got, want int64) {
	if got == want {
		return
	}
	r.Errors += max(got-want, want-got)
	if r.First == "" {
		r.First = fmt.Sprintf("%d %s, want %d", got, what, want)
	}
}

// generate runs a load to its end in a process of its own.
func (l *lab) generate(p *proxy, listener string, todo load) (result loadResult, err error) {
	c, err := l.startLoad(p, listener, todo, &result)
	if err != nil {
		return result, err
	}
	c.stop()
	return result, nil
}

// startLoad starts a load and reads its result. The part lives on until it is
// stopped.
func (l *lab) startLoad(p *proxy, listener string, todo load, result *loadResult) (*child, error) {
	todo.To = l.listener[listener]
	todo.Proxy = p.entry(todo.To)
	todo.Fixed, todo.Bare, todo.Closes, todo.HTTP2 = p.fixed, p.bare, p.closes, p.http2
	todo.Root = l.cert.Cert
	text, err := json.Marshal(todo)
	if err != nil {
		return nil, err
	}
	return startSelf(l.ctx, result, "load", string(text))
}
