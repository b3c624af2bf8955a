//go:build linux

package main

import "fmt"

// idle is how many tunnels or connections are held at once.
func (s scaled) idle() int64 { return max(int64(3000*min(float64(s), 1)), 100) }

// idleTunnels measures what a quiet tunnel costs: tunnels are opened, carry one
// byte each way and stay.
func (s scaled) idleTunnels() memoryRun {
	n := s.idle()
	return memoryRun{
		key: "idle", name: fmt.Sprintf("An idle tunnel, of %d", n),
		subjects: []string{egress, bareRelay, squid, trafficSrv, tinyproxy, goProxy},
		figures: []memoryFigure{
			{key: "idle", what: "user memory, settled", unit: "KiB", digits: 1},
			{key: "idle.found", what: "user memory, as found", unit: "KiB", digits: 1},
			{key: "idle.descriptors", what: "descriptors", digits: 2},
		},
		once: func(l *lab, p *proxy) ([]float64, loadResult, error) { return l.holdTunnels(p, n) },
	}
}

func (l *lab) holdTunnels(p *proxy, n int64) (values []float64, result loadResult, err error) {
	// A few tunnels first: what the first ones load is not the price of one.
	warm, err := l.generate(p, "echo", load{Do: "connects", Conns: 8, N: 100})
	if err != nil {
		return nil, warm, err
	}
	before, err := l.settledUsage(p)
	if err != nil {
		return nil, warm, err
	}
	c, err := l.startLoad(p, "echo", load{Do: "hold", Conns: 32, N: n}, &result)
	if err != nil {
		return nil, result, err
	}
	defer c.stop()
	found, err := steadyMemory(p)
	if err != nil {
		return nil, result, err
	}
	after, err := l.settledUsage(p)
	if err != nil {
		return nil, result, err
	}
	per := func(all int64) float64 { return float64(all) / float64(n) }
	return []float64{
		per(after.memory-before.memory) / 1024,
		per(found-before.memory) / 1024,
		per(int64(after.descriptors - before.descriptors)),
	}, result.and(warm), nil
}

// idleConns measures what a pooled connection to an origin costs while it is
// idle.
func (s scaled) idleConns() memoryRun {
	n := s.idle()
	return memoryRun{
		key: "pooled", name: fmt.Sprintf("An idle connection to an origin, of %d", n),
		subjects: []string{egressKeeps, transport, squid, trafficSrv, goProxy},
		figures: []memoryFigure{
			{key: "pooled.kept", what: "connections kept"},
			{key: "pooled", what: "user memory, settled", unit: "KiB", digits: 2},
			{key: "pooled.descriptors", what: "descriptors", digits: 2},
			{key: "pooled.goroutines", what: "goroutines", digits: 2},
		},
		once: func(l *lab, p *proxy) ([]float64, loadResult, error) { return l.keepConns(p, n) },
	}
}

// keepConns has n requests in flight together and then ends their clients: what
// is left are idle connections to the origin. The same load runs before the
// first look, but with an origin that ends the connections. So what so many
// clients leave behind is on both sides of the difference.
func (l *lab) keepConns(p *proxy, n int64) (values []float64, result loadResult, err error) {
	burst := load{Do: "gather", Conns: 1, N: n}
	warm, err := l.generate(p, "scatter", burst)
	if err != nil {
		return nil, warm, err
	}
	before, err := l.settledUsage(p)
	if err != nil {
		return nil, warm, err
	}
	var seenBefore, seen originSeen
	if err := l.origin.ask(&seenBefore); err != nil {
		return nil, warm, err
	}
	if result, err = l.generate(p, "gather", burst); err != nil {
		return nil, result, err
	}
	after, err := l.settledUsage(p)
	if err != nil {
		return nil, result, err
	}
	if err := l.origin.ask(&seen); err != nil {
		return nil, result, err
	}
	result = result.and(warm)
	kept := seen.Kept - seenBefore.Kept
	if result.compare("connections kept", kept, n); kept <= 0 {
		return []float64{0}, result, nil
	}
	per := func(all int64) float64 { return float64(all) / float64(kept) }
	values = []float64{
		float64(kept),
		per(after.memory-before.memory) / 1024,
		per(int64(after.descriptors - before.descriptors)),
	}
	if p.goroutines != nil {
		values = append(values, per(int64(after.goroutines-before.goroutines)))
	}
	return values, result, nil
}

// manyHosts measures what stays of a great number of hosts that pass through,
// each asked for one thing. Looked at after a tenth, after half and after all.
func (s scaled) manyHosts() memoryRun {
	n := max(int64(100_000*min(float64(s), 1)), 500)
	stops := []int64{n / 10, n / 2, n}
	m := memoryRun{
		key: "hosts", name: "Many hosts pass through: user memory, settled", repeats: 1,
		subjects: []string{egress, squid},
		once:     func(l *lab, p *proxy) ([]float64, loadResult, error) { return l.visitHosts(p, n, stops) },
	}
	for i, stop := range stops {
		key := [...]string{"hosts.first", "hosts.half", "hosts"}[i]
		m.figures = append(m.figures, memoryFigure{key: key, what: fmt.Sprintf("after %d", stop), unit: "MiB", digits: 1})
	}
	return m
}

func (l *lab) visitHosts(p *proxy, n int64, stops []int64) (values []float64, result loadResult, err error) {
	visited := int64(0)
	for _, stop := range stops {
		r, err := l.generate(p, "any", load{
			Do: "requests", Conns: 32, N: stop - visited, Size: getSize, Hosts: n, FirstHost: visited,
		})
		if result = result.and(r); err != nil {
			return nil, result, err
		}
		visited = stop
		memory, err := l.settledMemory(p)
		if err != nil {
			return nil, result, err
		}
		values = append(values, float64(memory)/oneMiB)
	}
	return values, result, nil
}
