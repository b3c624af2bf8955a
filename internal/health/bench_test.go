package health

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// answer is what a request ends with that was answered in 20 ms.
func answer(now time.Time) Observation {
	return Observation{Kind: Success, Reached: true, Destination: 5, Started: now.Add(-20 * time.Millisecond)}
}

// TestHotPathsDoNotAllocate: what every request does.
func TestHotPathsDoNotAllocate(t *testing.T) {
	cfg := exactConfig()
	g := newGroup(t, 10, cfg)
	groupObserve(g, 0, 0, 5, Observation{Kind: Failure}) // one of them is open
	m := g.Members()[1]
	now := at(sec)
	g.Available(now)
	for name, do := range map[string]func(){
		"available": func() { g.Available(now) },
		"no probe":  func() { g.TryProbe(now, 0, nil) },
		"status":    func() { m.Upstream.Available(); m.Upstream.Status() },
		"weight":    func() { m.Upstream.Factor(now, &cfg); m.Upstream.Latency(now) },
		"in flight": func() { m.Upstream.StartTunnel(); m.Upstream.InFlight(); m.Upstream.EndTunnel() },
		"success":   func() { g.Observe(now, m, answer(now)) },
		"failure, success": func() {
			g.Observe(now, m, Observation{Kind: Failure, Destination: 5})
			g.Observe(now, m, answer(now))
		},
		"destination": func() { Destination("example.com:443") },
	} {
		if n := testing.AllocsPerRun(100, do); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestSuccessTakesNoLock: while nothing is wrong.
func TestSuccessTakesNoLock(t *testing.T) {
	g := newGroup(t, 2, exactConfig())
	m := g.Members()[0]
	now := at(0)
	g.Available(now)
	g.mu.Lock()
	m.Upstream.mu.Lock()
	defer g.mu.Unlock()
	defer m.Upstream.mu.Unlock()
	g.Observe(now, m, answer(now)) // would hang
	g.Available(now)
	g.TryProbe(now, 0, nil)
	m.Upstream.Available()
	m.Upstream.Factor(now, &g.cfg.UpstreamConfig)
	m.Upstream.Latency(now)
}

// BenchmarkRequest is what a request costs here: probe, pick of two, counters, and
// the observation, on all processors at once.
func BenchmarkRequest(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			cfg := exactConfig()
			g := newGroup(b, n, cfg)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				now := at(0)
				for pb.Next() {
					now = now.Add(time.Microsecond)
					if _, _, ok := g.TryProbe(now, 0, nil); ok {
						b.Error("a probe")
					}
					tier := g.Available(now).Tiers[0].Members
					m, o := tier[rand.IntN(len(tier))], tier[rand.IntN(len(tier))]
					if o.Upstream.InFlight() < m.Upstream.InFlight() {
						m = o
					}
					u := m.Upstream
					u.Factor(now, &cfg)
					u.Latency(now)
					u.StartExchange()
					g.Observe(now, m, answer(now))
					u.EndExchange()
				}
			})
		})
	}
}

// BenchmarkAvailable is the snapshot alone.
func BenchmarkAvailable(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			g := newGroup(b, n, exactConfig())
			now := at(0)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					g.Available(now)
				}
			})
		})
	}
}

// BenchmarkSurvey is what an edge costs the next request.
func BenchmarkSurvey(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			g := newGroup(b, n, exactConfig())
			now := at(0)
			b.ReportAllocs()
			for b.Loop() {
				g.stale.Store(true)
				g.Available(now)
			}
		})
	}
}

// BenchmarkFailing is every second request failing, which needs the lock.
func BenchmarkFailing(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			g := newGroup(b, n, exactConfig())
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				now := at(0)
				for i := 0; pb.Next(); i++ {
					now = now.Add(time.Microsecond)
					m := g.Members()[rand.IntN(n)]
					g.Observe(now, m, Observation{Kind: Kind(i % 2), Destination: 5})
					g.Available(now)
				}
			})
		})
	}
}
