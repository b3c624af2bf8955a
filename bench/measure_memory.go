//go:build linux

package main

import (
	"fmt"
	"sync"
	"time"
)

// idleTunnels is how many tunnels are open at once for the idle figure.
const idleTunnels = 3000

// idleResult is what a quiet tunnel costs.
type idleResult struct {
	settled     []float64 // KiB a tunnel, after garbage collection
	asFound     []float64 // KiB a tunnel, as the tunnels have left it
	descriptors []float64
	errors      int64
	first       string
}

// idle opens tunnels and compares the proxy's memory and descriptors with those
// before. Each repetition has a fresh process: what a peak has left behind
// would be missing from the next difference.
func (l *lab) idle(name string, repeats int) (idleResult, error) {
	var r idleResult
	for range repeats {
		if err := l.idleOnce(name, &r); err != nil {
			return r, fmt.Errorf("idle tunnels, %s: %w", name, err)
		}
	}
	return r, nil
}

func (l *lab) idleOnce(name string, r *idleResult) error {
	p, err := l.start(name)
	if err != nil {
		return err
	}
	defer p.stop()
	// A few tunnels first: what the first ones load is not the price of one.
	warm, err := l.generate(p, "echo", load{Do: "connects", Conns: 8, N: 100})
	if err != nil {
		return err
	}
	before, err := settledMemory(p)
	if err != nil {
		return err
	}
	filesBefore, err := descriptors(p.pid)
	if err != nil {
		return err
	}
	var result loadResult
	c, err := l.startLoad(p, "echo", load{Do: "hold", Conns: 32, N: idleTunnels}, &result)
	if err != nil {
		return err
	}
	defer c.stop()
	found, err := steadyMemory(p)
	if err != nil {
		return err
	}
	files, err := descriptors(p.pid)
	if err != nil {
		return err
	}
	settled, err := settledMemory(p)
	if err != nil {
		return err
	}
	perTunnel := func(n int64) float64 { return float64(n) / idleTunnels }
	r.settled = append(r.settled, perTunnel(settled-before)/1024)
	r.asFound = append(r.asFound, perTunnel(found-before)/1024)
	r.descriptors = append(r.descriptors, perTunnel(int64(files-filesBefore)))
	if r.errors += warm.Errors + result.Errors; r.first == "" {
		r.first = warm.First + result.First
	}
	return nil
}

// settledMemory lets the proxy give back what it does not use, and reads its
// memory when that has become steady. It does so three times, because stacks
// shrink in one collection and pools are emptied by two.
func settledMemory(p *proxy) (n int64, err error) {
	for range 3 {
		if p.settle != nil {
			if err := p.settle(); err != nil {
				return 0, err
			}
		}
		if n, err = steadyMemory(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// steadyMemory reads the memory of a proxy until it has hardly changed for
// half a second, or for ten seconds.
func steadyMemory(p *proxy) (int64, error) {
	const step, enough, hardly = 100 * time.Millisecond, 5, 64 << 10
	last, same := int64(0), 0
	for range 100 {
		n, err := memory(p.pid)
		if err != nil {
			return 0, err
		}
		if same++; max(n-last, last-n) > hardly {
			last, same = n, 0
		}
		if same == enough {
			break
		}
		time.Sleep(step)
	}
	return last, nil
}

// slowRead is the load of the slow reader.
var slowRead = load{Do: "requests", Conns: 1, N: 1, Size: oneGiB, SlowBytes: oneGiB / 4, SlowRate: 64 << 20}

// slowResult is what a response that is read slowly costs.
type slowResult struct {
	growth []float64 // MiB
	errors int64
	first  string
}

// slow lets a client read a large response slowly, then as fast as it can, and
// returns by how much the proxy's memory grew at most.
func (l *lab) slow(name string, repeats int) (slowResult, error) {
	var r slowResult
	for range repeats {
		if err := l.slowOnce(name, &r); err != nil {
			return r, fmt.Errorf("slow reader, %s: %w", name, err)
		}
	}
	return r, nil
}

func (l *lab) slowOnce(name string, r *slowResult) error {
	p, err := l.start(name)
	if err != nil {
		return err
	}
	defer p.stop()
	warm, err := l.generate(p, "http", load{Do: "requests", Conns: 1, N: 10, Size: getSize})
	if err != nil {
		return err
	}
	before, err := settledMemory(p)
	if err != nil {
		return err
	}
	peak := watchMemory(p)
	result, err := l.generate(p, "http", slowRead)
	highest := peak()
	if err != nil {
		return err
	}
	r.growth = append(r.growth, float64(max(highest-before, 0))/(1<<20))
	if r.errors += warm.Errors + result.Errors; r.first == "" {
		r.first = warm.First + result.First
	}
	return nil
}

// watchMemory looks at a proxy's memory all the time. The returned function
// ends that and returns the most that was seen.
func watchMemory(p *proxy) (peak func() int64) {
	const step = 10 * time.Millisecond
	var highest int64
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(step)
		defer ticker.Stop()
		for {
			if n, err := memory(p.pid); err == nil {
				highest = max(highest, n)
			}
			select {
			case <-end:
				return
			case <-ticker.C:
			}
		}
	})
	return func() int64 {
		close(end)
		wg.Wait()
		return highest
	}
}
