package quantile

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestEstimator_FewSamplesSayNothing(t *testing.T) {
	var e Estimator
	for range least - 1 {
		e.Add(time.Millisecond)
	}
	if got := e.At(0.5); got != 0 {
		t.Errorf("%v of %d samples", got, least-1)
	}
	e.Add(time.Millisecond)
	if got := e.At(0.5); got < time.Millisecond || got > 1125*time.Microsecond {
		t.Errorf("median of equal samples of 1ms is %v", got)
	}
}

func TestEstimator_Tail(t *testing.T) {
	var e Estimator
	for i := range 100 {
		d := time.Millisecond
		if i >= 90 {
			d = time.Second
		}
		e.Add(d)
	}
	if got := e.At(0.9); got > 1125*time.Microsecond {
		t.Errorf("p90 = %v, want about 1ms", got)
	}
	if got := e.At(0.95); got < time.Second || got > 1125*time.Millisecond {
		t.Errorf("p95 = %v, want about 1s", got)
	}
}

func TestEstimator_Forgets(t *testing.T) {
	var e Estimator
	for range 1000 {
		e.Add(time.Second)
	}
	for range 10_000 {
		e.Add(time.Millisecond)
	}
	if got := e.At(0.95); got > 2*time.Millisecond {
		t.Errorf("p95 = %v long after the last slow sample", got)
	}
}

// Each duration lies in its bucket: not above its end, and within an eighth of it.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(8, 1<<46).Draw(t, "d"))
		end := upper(bucket(d))
		if d > end || float64(end) > float64(d)*1.126 {
			t.Fatalf("%d is in the bucket that ends at %d", d, end)
		}
	})
}

func TestAdd_AllocatesNothing(t *testing.T) {
	var e Estimator
	if n := testing.AllocsPerRun(100, func() { e.Add(time.Millisecond); e.At(0.9) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
