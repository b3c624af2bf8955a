package selection

import (
	"fmt"
	"testing"
)

func TestRandomIsInProportionToShare(t *testing.T) {
	const rounds = 60_000
	for _, n := range []int{2, 5, 60} { // fewer and more than are probed
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s, sum := selectionOf(equalWeights(n)...), float64(n)+2-0.5
			memberAt(s, 0).weight.Store(3)
			memberAt(s, 1).setFactor(0.5)
			counts := shares(s, loadedPolicy(t, `{"policy":"random"}`), rounds)
			near(t, "weight 3", counts[0], rounds, 3/sum)
			near(t, "factor 0.5", counts[1], rounds, 0.5/sum)
			for i := 2; i < n; i++ {
				near(t, fmt.Sprint("member ", i), counts[i], rounds, 1/sum)
			}
		})
	}
}

// What cannot be selected must not skew what can.
func TestRandomAmongFewEligible(t *testing.T) {
	const n, rounds = 200, 20_000
	s := selectionOf(equalWeights(n)...)
	for i := range n {
		memberAt(s, i).down.Store(i != 0 && i != 100 && i != 199)
	}
	memberAt(s, 100).weight.Store(2)
	counts := shares(s, loadedPolicy(t, `{"policy":"random"}`), rounds)
	near(t, "first", counts[0], rounds, 0.25)
	near(t, "middle", counts[100], rounds, 0.5)
	near(t, "last", counts[199], rounds, 0.25)
}

// After the heaviest member left, the others are still found by probing and
// still drawn in proportion.
func TestSamplerForgetsTheHeaviest(t *testing.T) {
	const n, rounds = 30, 30_000
	s := selectionOf(equalWeights(n)...)
	memberAt(s, 0).weight.Store(1000)
	p := new(Random)
	shares(s, p, 1000)
	if got := p.sampler.heaviest.Load(); got != 1000 {
		t.Errorf("heaviest %d, want 1000", got)
	}
	memberAt(s, 0).weight.Store(2)
	shares(s, p, 1000)
	if got := p.sampler.heaviest.Load(); got != 2 {
		t.Errorf("heaviest %d, want 2", got)
	}
	counts := shares(s, p, rounds)
	near(t, "weight 2", counts[0], rounds, 2./(n+1))
	near(t, "weight 1", counts[1], rounds, 1./(n+1))
}

func TestRandomChooseTakesTheLeastLoadedOfTheChosen(t *testing.T) {
	const n, rounds = 6, 60_000
	for _, choose := range []int{2, 3, 6, 9} {
		t.Run(fmt.Sprint(choose), func(t *testing.T) {
			s := selectionOf(equalWeights(n)...)
			for i := range n {
				memberAt(s, i).inFlight.Store(int64(10 + i))
			}
			counts := shares(s, loadedPolicy(t, fmt.Sprintf(`{"policy":"random_choose","choose":%d}`, choose)), rounds)
			// Member i wins if it is chosen, and the others are chosen
			// among the n-1-i with more in flight.
			k := min(choose, n)
			for i := range n {
				near(t, fmt.Sprint("member ", i), counts[i], rounds, float64(binomial(n-1-i, k-1))/float64(binomial(n, k)))
			}
		})
	}
}

func binomial(n, k int) int {
	if k < 0 || k > n {
		return 0
	}
	b := 1
	for i := range k {
		b = b * (n - i) / (i + 1)
	}
	return b
}
