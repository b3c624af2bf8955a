package retry

import (
	"testing"

	"pgregory.net/rapid"
)

// TestRetryTable holds the rules to the table for origins reached directly, over
// all there is to look at, said in another way: by the rows that are retried.
func TestRetryTable(t *testing.T) {
	for bits := range 1 << 7 {
		bit := func(n int) bool { return bits>>n&1 == 1 }
		a := Attempt{
			ClientGone: bit(0), Stale: bit(1), Reused: bit(2), Written: bit(3),
			Idempotent: bit(4), Replayable: bit(5),
		}
		if bit(6) {
			a.Retries = 1
		}
		lostRace := a.Stale && a.Reused && a.Retries == 0 && !a.ClientGone
		nothingWritten := lostRace && !a.Written && a.Replayable
		repeated := lostRace && a.Written && a.Idempotent && a.Replayable
		if want := nothingWritten || repeated; a.Retryable() != want {
			t.Errorf("%+v: retryable is %v, want %v", a, !want, want)
		}
	}
}

// TestRetryTable_Upstream does the same for attempts through upstream proxies.
func TestRetryTable_Upstream(t *testing.T) {
	for bits := range 1 << 9 {
		bit := func(n int) bool { return bits>>n&1 == 1 }
		a := Attempt{
			Upstream: true, ClientGone: bit(0), Stale: bit(1), Reused: bit(2), Written: bit(3),
			Idempotent: bit(4), Replayable: bit(5), Elsewhere: bit(6), Exhausted: bit(7), Resent: bit(8),
		}
		another := !a.ClientGone && (a.Stale || a.Elsewhere) && a.Replayable && !a.Exhausted
		again := !a.ClientGone && a.Stale && a.Reused && a.Replayable
		want := (another || again) && !a.Written || // any method
			again && a.Idempotent || // the connection was closed before: the same upstream
			another && a.Idempotent && !a.Resent // once
		if a.Retryable() != want {
			t.Errorf("%+v: retryable is %v, want %v", a, !want, want)
		}
	}
}

func TestSafeToRepeat_RFC9110_9_2_2(t *testing.T) {
	for method, want := range map[string]bool{
		"GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "PUT": true, "DELETE": true,
		"POST": false, "PATCH": false, "CONNECT": false, "PROPFIND": false, "get": false, "": false,
	} {
		if Idempotent(method) != want {
			t.Errorf("%s: got %v", method, !want)
		}
	}
}

func TestRetryBudget(t *testing.T) {
	b := NewBudget(BudgetShare, MaxDirect)
	for range 15 {
		b.Begin()
	}
	take := func(before int, want bool) {
		t.Helper()
		if b.take(before) != want {
			t.Fatalf("take(%d) is %v with %d retries of %d", before, !want, b.retries.Load(), b.limit())
		}
	}
	for range 3 {
		take(1, true) // the minimum, though 20% of 15 is 3 as well
	}
	take(1, false)
	take(0, true) // a first one is never refused, but counts
	take(2, false)
	b.giveBack()
	take(1, false)
	b.giveBack()
	take(1, true)
	for range 10 {
		b.Begin()
	}
	take(1, true) // 5 of 25
	take(1, true)
	take(1, false)
	take(2, false) // at most two retries of a request, whatever room there is
	if b.takeSpare(0) {
		t.Error("a hedge beyond the limit")
	}
	b.giveBack()
	if !b.takeSpare(0) || b.takeSpare(2) {
		t.Error("a hedge within the limit is refused, or a third retry is none")
	}
}

// TestRetryBudget_Model: however requests begin, retry and end, the counters are
// those of a simple count, second retries are refused exactly at the limit, and
// in the end everything is back at zero.
func TestRetryBudget_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBudget(BudgetShare, MaxDirect)
		var live []*Retries
		holding := func() (n int64) {
			for _, r := range live {
				if r.held != nil {
					n++
				}
				if r.hedge != nil {
					n++
				}
			}
			return n
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(*rapid.T) {
				b.Begin()
				live = append(live, new(Retries))
			},
			"retry": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip("no request")
				}
				r := rapid.SampledFrom(live).Draw(t, "request")
				made := r.Made
				r.End()
				others := holding()
				want := made == 0 || made < 2 && others < max(3, int64(len(live))/5)
				if got := r.Next(b, &r.Made); got != want {
					t.Fatalf("retry %d with %d others of %d requests: %v", made+1, others, len(live), got)
				}
			},
			"hedge": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip("no request")
				}
				r := rapid.SampledFrom(live).Draw(t, "request")
				want := r.hedge == nil && r.Made < 2 && holding() < max(3, int64(len(live))/5)
				if got := r.Beside(b); got != want {
					t.Fatalf("hedge after %d retries with %d in flight of %d requests: %v", r.Made, holding(), len(live), got)
				}
				if rapid.Bool().Draw(t, "nobody to ask") {
					r.NotBeside()
				}
			},
			"end": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip("no request")
				}
				i := rapid.IntRange(0, len(live)-1).Draw(t, "request")
				live[i].End()
				b.End()
				live = append(live[:i], live[i+1:]...)
			},
			"": func(t *rapid.T) {
				if got := b.retries.Load(); got != holding() {
					t.Fatalf("%d retries counted, %d are in flight", got, holding())
				}
				if got := b.requests.Load(); got != int64(len(live)) {
					t.Fatalf("%d requests counted, %d are in flight", got, len(live))
				}
			},
		})
	})
}
