package metrics

import (
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/core"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/upstream"
)

// TestRecordingIsCheap: a request is counted without allocations, and a tunnel with that of
// the function that is told of its end.
func TestRecordingIsCheap(t *testing.T) {
	u := Acquire("allocs", nil, nil)
	defer u.Release()
	for _, tc := range []struct {
		name   string
		use    upstream.Use
		record func(*core.Request)
		most   float64
	}{
		{"exchange", upstream.Exchange, func(r *core.Request) {}, 0},
		{"tunnel", upstream.Tunnel, func(r *core.Request) {
			u.Stands(r)(relay.Result{BytesUp: 1, BytesDown: 1, Reason: relay.ReasonClient})
		}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &core.Request{Use: tc.use, Start: time.Now()}
			r.Outcome.Status, r.Outcome.Attempts = 200, 1
			r.Outcome.Duration, r.Outcome.TTFB = 2*time.Millisecond, time.Millisecond
			n := testing.AllocsPerRun(1000, func() {
				u.Begin(tc.use)
				u.Ended(r)
				tc.record(r)
			})
			if n > tc.most {
				t.Errorf("%v allocations, want %v", n, tc.most)
			}
		})
	}
}

// TestClosedByReason: each reason has its series, and one that is not known is none.
func TestClosedByReason(t *testing.T) {
	u := Acquire("reasons", nil, nil)
	defer u.Release()
	s := u.recorder.Load().series(way{tunnel: true, path: "direct"})
	if s.closes(relay.ReasonIdle) != s.closes(relay.ReasonIdle) || s.closes(relay.ReasonIdle) == s.closes(relay.ReasonOriginError) {
		t.Error("reasons and counters are not the same")
	}
	if s.closes(relay.Reason(relay.Reasons)) != s.closes(0) {
		t.Error("a reason beyond the last one has a series of its own")
	}
}
