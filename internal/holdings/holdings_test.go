package holdings

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// The counter against a map.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(-1, 3).Draw(t, "limit")
		c, model, total := New[string](limit), map[string]int{}, 0
		key := func(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "key") }
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				k := key(t)
				want := limit <= 0 || model[k] < limit
				if got := c.Acquire(k); got != want {
					t.Fatalf("acquire: %v, want %v", got, want)
				}
				if want {
					model[k]++
					total++
				}
			},
			"release": func(t *rapid.T) {
				k := key(t)
				c.Release(k) // also one that is not held: no harm
				if model[k] > 0 {
					model[k]--
					total--
				}
			},
			"": func(t *rapid.T) {
				for _, k := range []string{"a", "b", "c", "d"} {
					if got := c.Count(k); got != model[k] {
						t.Fatalf("%s has %d, want %d", k, got, model[k])
					}
				}
				if got := c.total(); got != total {
					t.Fatalf("total %d, want %d", got, total)
				}
				holders := 0
				for _, n := range model {
					if n > 0 {
						holders++
					}
				}
				if got := c.holders(); got != holders {
					t.Fatalf("%d holders in the maps, want %d", got, holders)
				}
			},
		})
	})
}

// total is what all hold together.
func (c *Counter[K]) total() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, held := range s.held {
			n += held
		}
		s.mu.Unlock()
	}
	return n
}

func (c *Counter[K]) holders() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += len(s.held)
		s.mu.Unlock()
	}
	return n
}

// However many ask at once, nobody has more than the limit.
func TestLimitUnderContention(t *testing.T) {
	const limit = 3
	c := New[int](limit)
	var inUse [4]atomic.Int64
	var refused atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 2000 {
				k := (g + i) % len(inUse)
				if !c.Acquire(k) {
					refused.Add(1)
					continue
				}
				if n := inUse[k].Add(1); n > limit {
					t.Errorf("%d at once", n)
				}
				runtime.Gosched()
				inUse[k].Add(-1)
				c.Release(k)
			}
		})
	}
	wg.Wait()
	if c.total() != 0 || c.holders() != 0 {
		t.Errorf("left: %d of %d holders", c.total(), c.holders())
	}
	if refused.Load() == 0 {
		t.Error("the limit was never reached: the test shows nothing")
	}
}

// A crowd that has left takes its memory along.
func TestCrowdLeavesNoMemory(t *testing.T) {
	const n = 100_000
	heap := func() uint64 {
		var ms runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&ms)
		return ms.HeapAlloc
	}
	c := New[int](1)
	before := heap()
	for k := range n {
		c.Acquire(k)
	}
	crowded := heap()
	for k := range n {
		c.Release(k)
	}
	after := heap()
	if crowded < before+n*8 {
		t.Errorf("heap %d with the crowd, %d before: the test measures nothing", crowded, before)
	}
	if after > before+64<<10 {
		t.Errorf("heap %d KiB before, %d KiB after", before>>10, after>>10)
	}
	runtime.KeepAlive(c)
}

func TestAllocatesNothing(t *testing.T) {
	c := New[string](2)
	if n := testing.AllocsPerRun(1000, func() {
		if c.Acquire("192.0.2.1") {
			c.Release("192.0.2.1")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	for _, holders := range []int{1, 1000} {
		b.Run(fmt.Sprintf("holders=%d", holders), func(b *testing.B) {
			c := New[string](0)
			keys := make([]string, holders)
			for i := range keys {
				keys[i] = "192.0.2." + strconv.Itoa(i)
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					k := keys[i%holders]
					c.Acquire(k)
					c.Release(k)
				}
			})
		})
	}
}

// The limit may be another one each time.
func TestAcquireUpTo(t *testing.T) {
	c := New[string](1)
	for i, step := range []struct {
		most int
		want bool
	}{{1, true}, {1, false}, {2, true}, {1, false}, {0, true}, {3, false}, {4, true}} {
		if got := c.AcquireUpTo("a", step.most); got != step.want {
			t.Errorf("step %d, up to %d with %d held: %v", i, step.most, c.Count("a"), got)
		}
	}
	if c.total() != 4 {
		t.Errorf("%d held in all; want 4", c.total())
	}
}
