package selection

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkSelect measures every policy in groups of 1 to 1,000 members, by one
// goroutine and by eight. Compare with
//
//	go test -run '^$' -bench Select -benchmem .
func BenchmarkSelect(b *testing.B) {
	for _, config := range everyPolicy {
		for _, n := range []int{1, 3, 100, 1000} {
			for _, goroutines := range []int{1, 8} {
				name := fmt.Sprintf("%s/members=%d/goroutines=%d", strings.Trim(config, "{}"), n, goroutines)
				b.Run(name, func(b *testing.B) {
					benchmarkSelect(b, loadedPolicy(b, config), selectionOf(equalWeights(n)...), goroutines)
				})
			}
		}
	}
}

// BenchmarkSelectOneUp measures the worst case: all members are down but the
// last.
func BenchmarkSelectOneUp(b *testing.B) {
	for _, config := range everyPolicy {
		b.Run(strings.Trim(config, "{}"), func(b *testing.B) {
			s := selectionOf(equalWeights(1000)...)
			for i := range 999 {
				memberAt(s, i).down.Store(true)
			}
			benchmarkSelect(b, loadedPolicy(b, config), s, 1)
		})
	}
}

func benchmarkSelect(b *testing.B, p Policy, s *Choice, goroutines int) {
	s.Request.Header.Set("X-Session", "abc")
	s.Request.Header.Set("Cookie", "theme=dark; sid=abc")
	p.Select(s)
	done := make(chan struct{})
	b.ReportAllocs()
	b.ResetTimer()
	for g := range goroutines {
		rounds := b.N / goroutines
		if g < b.N%goroutines {
			rounds++
		}
		go func() {
			own := *s
			for range rounds {
				p.Select(&own)
			}
			done <- struct{}{}
		}()
	}
	for range goroutines {
		<-done
	}
}
