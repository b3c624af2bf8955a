package egress

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestLeastConnRelativeToShare(t *testing.T) {
	for _, test := range []struct {
		name     string
		weights  []int
		factors  []float64
		inFlight []int64
		want     []int // who may be selected, equally often
	}{
		{"fewest", []int{1, 1, 1}, nil, []int64{4, 2, 3}, []int{1}},
		{"weight", []int{1, 4, 1}, nil, []int64{2, 7, 3}, []int{1}},
		{"factor", []int{1, 1, 1}, []float64{1, 0.1, 1}, []int64{9, 1, 12}, []int{0}},
		{"factor overcome", []int{1, 1, 1}, []float64{1, 0.1, 1}, []int64{11, 1, 12}, []int{1}},
		{"tie", []int{1, 1, 1, 1}, nil, []int64{5, 2, 2, 2}, []int{1, 2, 3}},
		{"tie by weight", []int{2, 3, 2}, nil, []int64{4, 9, 4}, []int{0, 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := selectionOf(test.weights...)
			for i := range test.weights {
				memberAt(s, i).inFlight.Store(test.inFlight[i])
				if test.factors != nil {
					memberAt(s, i).setFactor(test.factors[i])
				}
			}
			const rounds = 3000
			counts := shares(s, loadedPolicy(t, `{"policy":"least_conn"}`), rounds)
			for _, i := range test.want {
				near(t, fmt.Sprint("member ", i), counts[i], rounds, 1/float64(len(test.want)))
				counts[i] = 0
			}
			for i, n := range counts {
				if n > 0 {
					t.Errorf("member %d was selected %d times", i, n)
				}
			}
		})
	}
}

// Where nothing is in flight, weights and factors decide all the same.
func TestLeastConnIdle(t *testing.T) {
	const rounds = 30_000
	s := selectionOf(1, 3, 1)
	memberAt(s, 2).setFactor(0.1)
	counts := shares(s, loadedPolicy(t, `{"policy":"least_conn"}`), rounds)
	near(t, "weight 1", counts[0], rounds, 1/4.1)
	near(t, "weight 3", counts[1], rounds, 3/4.1)
	near(t, "factor 0.1", counts[2], rounds, 0.1/4.1)
}

// keepInFlight selects members for a load that stays the same: whenever one of
// so many ends at random, another begins. It returns how many each member had
// in flight on average.
func keepInFlight(s *Selection, p SelectionPolicy, load, rounds int) []float64 {
	var running []int
	average := make([]float64, len(s.Members))
	for k := range rounds {
		if len(running) == load {
			j := rand.IntN(load)
			memberAt(s, running[j]).inFlight.Add(-1)
			running[j] = running[load-1]
			running = running[:load-1]
		}
		i := p.Select(s)
		memberAt(s, i).inFlight.Add(1)
		running = append(running, i)
		if k >= rounds/2 {
			for i := range s.Members {
				average[i] += float64(memberAt(s, i).InFlight()) / float64(rounds-rounds/2)
			}
		}
	}
	return average
}

func TestLoadSettlesInProportionToShare(t *testing.T) {
	for _, config := range []string{`{"policy":"least_conn"}`, `{"policy":"p2c_ewma"}`, `{"policy":"random_choose","choose":3}`} {
		t.Run(config, func(t *testing.T) {
			s := selectionOf(1, 3, 1, 2)
			memberAt(s, 2).setFactor(0.1)
			for i := range s.Members {
				memberAt(s, i).latency.Store(int64(20 * time.Millisecond))
			}
			got := keepInFlight(s, loadedPolicy(t, config), 610, 30_000)
			for i, want := range []float64{100, 300, 10, 200} {
				if math.Abs(got[i]-want) > want/10+5 {
					t.Errorf("member %d: %.0f in flight, want about %.0f (all: %.0f)", i, got[i], want, got)
				}
			}
		})
	}
}

func TestP2CPrefersTheCheaper(t *testing.T) {
	const fast, slow = 10 * time.Millisecond, 100 * time.Millisecond
	for _, test := range []struct {
		name     string
		latency  [2]time.Duration
		inFlight [2]int64
		weights  [2]int
		factors  [2]float64
		want     int // -1: either, in proportion to the weights
	}{
		{"latency", [2]time.Duration{fast, slow}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"in flight", [2]time.Duration{fast, fast}, [2]int64{5, 4}, [2]int{1, 1}, [2]float64{1, 1}, 1},
		{"load outweighs latency", [2]time.Duration{fast, slow}, [2]int64{10, 0}, [2]int{1, 1}, [2]float64{1, 1}, 1},
		{"not yet", [2]time.Duration{fast, slow}, [2]int64{8, 0}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"weight", [2]time.Duration{fast, fast}, [2]int64{5, 9}, [2]int{1, 2}, [2]float64{1, 1}, 1},
		{"weight outweighed", [2]time.Duration{fast, fast}, [2]int64{4, 10}, [2]int{1, 2}, [2]float64{1, 1}, 0},
		{"factor", [2]time.Duration{fast, slow}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{0.05, 1}, 1},
		{"equal cost", [2]time.Duration{fast, slow}, [2]int64{9, 0}, [2]int{1, 1}, [2]float64{1, 1}, -1},
		{"equal cost by weight", [2]time.Duration{fast, fast}, [2]int64{0, 2}, [2]int{1, 3}, [2]float64{1, 1}, -1},
		{"unknown is as good as the other", [2]time.Duration{slow, 0}, [2]int64{1, 0}, [2]int{1, 1}, [2]float64{1, 1}, 1},
		{"unknown is no better than the other", [2]time.Duration{slow, 0}, [2]int64{0, 1}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"both unknown", [2]time.Duration{}, [2]int64{1, 0}, [2]int{1, 1}, [2]float64{1, 1}, 1},
		{"nothing known", [2]time.Duration{}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{1, 1}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := selectionOf(test.weights[:]...)
			for i := range 2 {
				memberAt(s, i).latency.Store(int64(test.latency[i]))
				memberAt(s, i).inFlight.Store(test.inFlight[i])
				memberAt(s, i).setFactor(test.factors[i])
			}
			const rounds = 1000
			counts := shares(s, loadedPolicy(t, `{"policy":"p2c_ewma"}`), rounds)
			if test.want < 0 {
				near(t, "first", counts[0], rounds, float64(test.weights[0])/float64(test.weights[0]+test.weights[1]))
			} else if counts[test.want] != rounds {
				t.Errorf("selected %v, want only %d", counts, test.want)
			}
		})
	}
}

// Of a large group each member is compared with another one, so that only the
// costliest is never selected, and all others are.
func TestP2CTakesTwoAtRandom(t *testing.T) {
	const n, rounds = 20, 40_000
	s := selectionOf(equalWeights(n)...)
	for i := range n {
		memberAt(s, i).latency.Store(int64(i+1) * int64(time.Millisecond))
	}
	counts := shares(s, loadedPolicy(t, `{"policy":"p2c_ewma"}`), rounds)
	for i := range n {
		near(t, fmt.Sprint("member ", i), counts[i], rounds, float64(n-1-i)/float64(binomial(n, 2)))
	}
}

// A burst does not go to one new member of which nothing is known.
func TestP2CUnknownLatencyIsNoMagnet(t *testing.T) {
	const n = 10
	s := selectionOf(equalWeights(n)...)
	for i := 1; i < n; i++ {
		memberAt(s, i).latency.Store(int64(50 * time.Millisecond))
	}
	p := loadedPolicy(t, `{"policy":"p2c_ewma"}`)
	for range 1000 { // and none of them has connected yet
		memberAt(s, p.Select(s)).inFlight.Add(1)
	}
	if got := memberAt(s, 0).InFlight(); got < 80 || got > 120 {
		t.Errorf("%d of 1000 went to the new member of 10", got)
	}
}
