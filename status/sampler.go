package status

import (
	"sync"
	"time"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/metrics"
)

// This file contains what is remembered of the last 15 minutes, for curves and for the
// sentence on top. It costs nothing while no page is configured.

const (
	samplePause = 10 * time.Second
	maxSamples  = 90 // 15 minutes
	lately      = 30 // samples of the 5 minutes that the sentence is about

	// maxCurves bounds the upstreams that have a curve: the first ones have.
	maxCurves = 1000
)

// sample is the state of the counters at a moment. It is not changed.
type sample struct {
	at     time.Time
	totals metrics.Totals
	curves map[string]admin.Attempts // of those that have a curve, by ID
	failed map[string]culprit        // attempts that have failed, of all that have any, by ID
}

func takeSample() *sample { return sampleOf(time.Now(), metrics.TakeTotals(), admin.AttemptsOf()) }

func sampleOf(at time.Time, totals metrics.Totals, upstreams []admin.Attempts) *sample {
	s := &sample{at, totals, make(map[string]admin.Attempts), make(map[string]culprit)}
	for i, u := range upstreams {
		if i < maxCurves {
			s.curves[u.ID] = u
		}
		if u.Failed > 0 {
			s.failed[u.ID] = culprit{"upstream " + u.URL, u.Failed}
		}
	}
	return s
}

// sampler takes samples while somebody uses it. It is safe for concurrent use.
type sampler struct {
	take func() *sample

	mu      sync.Mutex
	users   int           // guarded by mu
	stop    chan struct{} // ends the goroutine; guarded by mu
	samples []*sample     // the oldest first; guarded by mu
}

// samples are those of this process. They outlive configurations with a page.
var samples = sampler{take: takeSample}

// use has samples taken until the function that it returns is called.
func (s *sampler) use() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users == 1 {
		s.stop = make(chan struct{})
		s.samples = []*sample{s.take()}
		go s.run(s.stop)
	}
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.users--; s.users == 0 {
			close(s.stop)
			s.samples = nil
		}
	})
}

func (s *sampler) run(stop <-chan struct{}) {
	ticker := time.NewTicker(samplePause)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		next := s.take()
		s.mu.Lock()
		select {
		case <-stop:
		default:
			if len(s.samples) > maxSamples { // n+1 samples are n differences
				s.samples = append(s.samples[:0], s.samples[1:]...)
			}
			s.samples = append(s.samples, next)
			if old := len(s.samples) - lately - 1; old >= 0 { // the sentence does not need it any more
				s.samples[old] = &sample{at: s.samples[old].at, totals: s.samples[old].totals, curves: s.samples[old].curves}
			}
		}
		s.mu.Unlock()
	}
}

// now returns the samples, the last of which is of now.
func (s *sampler) now() []*sample {
	last := s.take()
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(append(make([]*sample, 0, len(s.samples)+1), s.samples...), last)
}

// point is what has happened between two samples.
type point struct {
	requests, failed uint64
	p50, p95         float64 // in seconds; 0 for unknown
}

// grown is by how much a counter has grown. It begins anew where its handler was gone.
func grown(from, to uint64) uint64 {
	if to < from {
		return to
	}
	return to - from
}

// wayPoints are the points of a group, or with "" of what left directly.
func wayPoints(all []*sample, handler, group string) []point {
	var points []point
	for i := 1; i < len(all); i++ {
		points = append(points, wayPoint(all[i-1], all[i], handler, group))
	}
	return points
}

func wayPoint(from, to *sample, handler, group string) (p point) {
	within := make([]uint64, len(metrics.TimeBuckets())+1)
	for way, t := range to.totals.Ways {
		if way.Handler != handler || way.Group != group {
			continue
		}
		before := from.totals.Ways[way]
		if before == nil || before.Requests > t.Requests {
			before = &metrics.WayTotals{Within: make([]uint64, len(t.Within))}
		}
		p.requests += t.Requests - before.Requests
		p.failed += grown(before.Failed, t.Failed)
		for i := range t.Within {
			within[i] += grown(before.Within[i], t.Within[i])
		}
	}
	p.p50, p.p95 = quantile(within, .5), quantile(within, .95)
	return p
}

// quantile estimates a quantile from cumulative buckets, the last of which has all.
func quantile(within []uint64, q float64) float64 {
	bounds := metrics.TimeBuckets()
	all := within[len(within)-1]
	if all == 0 {
		return 0
	}
	rank := q * float64(all)
	lower, below := 0.0, 0.0
	for i, bound := range bounds {
		n := float64(within[i])
		if n >= rank && n > below {
			return lower + (bound-lower)*(rank-below)/(n-below)
		}
		lower, below = bound, n
	}
	return bounds[len(bounds)-1]
}

// upstreamPoints are the points of an upstream. One that is new has begun with nothing; of one
// that is not, nothing is known where it had no curve.
func upstreamPoints(all []*sample, id string) []point {
	var points []point
	for i := 1; i < len(all); i++ {
		from, had := all[i-1].curves[id]
		to, has := all[i].curves[id]
		if !has || !had && to.Known.Before(all[i-1].at) {
			points = append(points, point{})
			continue
		}
		points = append(points, point{requests: grown(from.All, to.All), failed: grown(from.Failed, to.Failed)})
	}
	return points
}

// since returns the sample with which the last 5 minutes begin, and that of now.
func since(all []*sample) (from, to *sample) {
	return all[max(0, len(all)-1-lately)], all[len(all)-1]
}
