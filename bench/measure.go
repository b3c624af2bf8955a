//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"time"
)

// Sizes of what is asked for.
const (
	getSize  = 1 << 10
	postSize = 64 << 10
	oneGiB   = 1 << 30
)

// experiment measures the processor time that an operation costs a proxy.
type experiment struct {
	key, name string
	unit      string
	inUnit    func(perOperation time.Duration) float64
	subjects  []string
	listener  string // of the origin
	load      load
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func experiments(scale float64) []experiment {
	n := func(full int64) int64 { return max(int64(float64(full)*scale), 64) }
	exchanges := []string{egress, transport, noReadFrom, caddyRespond}
	return []experiment{
		{
			key: "get", name: "GET 1 KiB", unit: "µs", inUnit: microseconds, subjects: exchanges, listener: "http",
			load: load{Do: "requests", Conns: 32, N: n(20_000), Size: getSize},
		},
		{
			key: "post", name: "POST 64 KiB", unit: "µs", inUnit: microseconds, subjects: exchanges, listener: "http",
			load: load{Do: "requests", Conns: 32, N: n(6_000), Size: getSize, Post: postSize},
		},
		{
			key: "connect", name: "CONNECT, one byte echoed, close", unit: "µs", inUnit: microseconds,
			subjects: []string{egress, bareRelay}, listener: "echo",
			load: load{Do: "connects", Conns: 32, N: n(5_000)},
		},
		{
			key: "tunnel", name: "1 GiB through a tunnel", unit: "s", inUnit: time.Duration.Seconds,
			subjects: []string{egress, bareRelay}, listener: "bulk",
			load: load{Do: "bulk", Conns: 1, N: 1, Size: oneGiB},
		},
	}
}

// series is what the rounds of an experiment have brought for one subject, in
// the experiment's unit for one operation.
type series struct {
	subject string
	total   []float64
	user    []float64
	errors  int64
	first   string
}

// run starts the subjects of an experiment, warms them up, and measures them in
// turn, round after round, each time beginning with another one.
func (l *lab) run(e experiment, rounds int, progress func(string)) ([]series, error) {
	proxies, out := make([]*proxy, len(e.subjects)), make([]series, len(e.subjects))
	for i, name := range e.subjects {
		p, err := l.start(name)
		if err != nil {
			return nil, err
		}
		defer p.stop()
		proxies[i], out[i].subject = p, name
	}
	for round := -1; round < rounds; round++ { // -1 is the warm-up
		for i := range proxies {
			turn := (i + max(round, 0)) % len(proxies)
			cost, result, err := l.measure(proxies[turn], e)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", e.name, proxies[turn].name, err)
			}
			if result.Errors > 0 {
				s := &out[turn]
				s.errors += result.Errors
				if s.first == "" {
					s.first = result.First
				}
			}
			if round >= 0 && result.OK > 0 {
				per := time.Duration(result.OK)
				out[turn].total = append(out[turn].total, e.inUnit(cost.total()/per))
				out[turn].user = append(out[turn].user, e.inUnit(cost.user/per))
			}
		}
		progress(fmt.Sprintf("%s: round %d of %d", e.name, round+1, rounds))
	}
	return out, nil
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
	before, err := cpu(p.pid)
	if err != nil {
		return cost, result, err
	}
	if result, err = l.generate(p, e.listener, e.load); err != nil {
		return cost, result, err
	}
	time.Sleep(afterwards)
	after, err := cpu(p.pid)
	if err != nil {
		return cost, result, err
	}
	if err := l.origin.ask(&seenAfter); err != nil {
		return cost, result, err
	}
	want := result.OK
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
	todo.Fixed, todo.Bare = p.fixed, p.bare
	text, err := json.Marshal(todo)
	if err != nil {
		return nil, err
	}
	return startSelf(l.ctx, result, "load", string(text))
}
