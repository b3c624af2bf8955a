package selection

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
func keepInFlight(s *Choice, p Policy, load, rounds int) []float64 {
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
		want     float64 // the part of the first
	}{
		{"nothing known", [2]time.Duration{}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{1, 1}, 0.5},
		{"latency", [2]time.Duration{fast, slow}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{1, 1}, 10. / 11},
		{"one failed", [2]time.Duration{fast, 50 * slow}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{1, 1}, 1 - leastStay/2},
		{"weight", [2]time.Duration{fast, fast}, [2]int64{0, 0}, [2]int{1, 2}, [2]float64{1, 1}, 1. / 3},
		{"weight and latency", [2]time.Duration{fast, slow}, [2]int64{0, 0}, [2]int{1, 10}, [2]float64{1, 1}, 0.5},
		{"factor and latency", [2]time.Duration{fast, slow}, [2]int64{0, 0}, [2]int{1, 1}, [2]float64{0.1, 1}, 0.5},
		{"a request more", [2]time.Duration{fast, fast}, [2]int64{5, 4}, [2]int{1, 1}, [2]float64{1, 1}, 0.5},
		{"more in flight", [2]time.Duration{fast, fast}, [2]int64{7, 4}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"more in flight by weight", [2]time.Duration{fast, fast}, [2]int64{7, 9}, [2]int{1, 2}, [2]float64{1, 1}, 0},
		{"fewer in flight by weight", [2]time.Duration{fast, fast}, [2]int64{3, 12}, [2]int{1, 2}, [2]float64{1, 1}, 1},
		{"as many in flight by weight", [2]time.Duration{fast, fast}, [2]int64{5, 10}, [2]int{1, 2}, [2]float64{1, 1}, 1. / 3},
		{"load outweighs latency", [2]time.Duration{fast, slow}, [2]int64{12, 0}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"not yet", [2]time.Duration{fast, slow}, [2]int64{8, 0}, [2]int{1, 1}, [2]float64{1, 1}, 10. / 11},
		{"the slow one has as many", [2]time.Duration{fast, slow}, [2]int64{8, 8}, [2]int{1, 1}, [2]float64{1, 1}, 10. / 11},
		{"the slow one has more", [2]time.Duration{fast, slow}, [2]int64{6, 9}, [2]int{1, 1}, [2]float64{1, 1}, 1},
		{"the slow one has fewer", [2]time.Duration{fast, slow}, [2]int64{20, 2}, [2]int{1, 1}, [2]float64{1, 1}, 10. / 11},
		{"the slow one has next to none", [2]time.Duration{fast, slow}, [2]int64{40, 1}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"the slow one is heavier and has more", [2]time.Duration{fast, slow}, [2]int64{2, 20}, [2]int{1, 10}, [2]float64{1, 1}, 0.5},
		{"unknown is as good as the other", [2]time.Duration{slow, 0}, [2]int64{3, 0}, [2]int{1, 1}, [2]float64{1, 1}, 0},
		{"unknown is no better than the other", [2]time.Duration{slow, 0}, [2]int64{0, 3}, [2]int{1, 1}, [2]float64{1, 1}, 1},
		{"both unknown", [2]time.Duration{}, [2]int64{3, 0}, [2]int{1, 1}, [2]float64{1, 1}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := selectionOf(test.weights[:]...)
			for i := range 2 {
				memberAt(s, i).latency.Store(int64(test.latency[i]))
				memberAt(s, i).inFlight.Store(test.inFlight[i])
				memberAt(s, i).setFactor(test.factors[i])
			}
			const rounds = 20_000
			counts := shares(s, loadedPolicy(t, `{"policy":"p2c_ewma"}`), rounds)
			if test.want == 0 || test.want == 1 {
				if counts[0] != int(test.want*rounds) {
					t.Errorf("selected %v", counts)
				}
				return
			}
			near(t, "first", counts[0], rounds, test.want)
		})
	}
}

// Of a large group each member is compared with another one: the faster a member is,
// the more it gets, and none gets nothing.
func TestP2CTakesTwoAtRandom(t *testing.T) {
	const n, rounds = 20, 40_000
	s := selectionOf(equalWeights(n)...)
	for i := range n {
		memberAt(s, i).latency.Store(int64(i+1) * int64(time.Millisecond))
	}
	counts := shares(s, loadedPolicy(t, `{"policy":"p2c_ewma"}`), rounds)
	for i := range n {
		want := 0.0 // against each of the others
		for j := range n {
			if j != i {
				want += float64(j+1) / float64(i+j+2)
			}
		}
		near(t, fmt.Sprint("member ", i), counts[i], rounds, want/float64(binomial(n, 2)))
	}
}

// closedLoop has so many clients, each of which sends one request after the other to
// members that take so long, and counts what each member got.
func closedLoop(s *Choice, p Policy, clients, rounds int, took []time.Duration) []int {
	type request struct {
		ends   time.Duration
		member int
	}
	var running []request
	counts, now := make([]int, len(s.Members)), time.Duration(0)
	for range rounds {
		if len(running) == clients {
			first := 0
			for i := range running {
				if running[i].ends < running[first].ends {
					first = i
				}
			}
			now = running[first].ends
			memberAt(s, running[first].member).inFlight.Add(-1)
			running = append(running[:first], running[first+1:]...)
		}
		i := p.Select(s)
		memberAt(s, i).inFlight.Add(1)
		counts[i]++
		running = append(running, request{now + time.Duration(float64(took[i])*rand.ExpFloat64()), i})
	}
	return counts
}

// Weights hold at any concurrency, and nobody gets nothing: with policies that go by
// what is in flight, a member that is lighter gets no more than one that is heavier.
func TestWeightsAtAnyConcurrency(t *testing.T) {
	const rounds = 6000
	even := []time.Duration{10 * time.Millisecond, 10 * time.Millisecond}
	for config, want := range map[string]float64{ // part of the heavier, 0: from a half to two thirds
		`{"policy":"p2c_ewma"}`:             2. / 3,
		`{"policy":"random"}`:               2. / 3,
		`{"policy":"weighted_round_robin"}`: 2. / 3,
		`{"policy":"round_robin"}`:          1. / 2,
		`{"policy":"least_conn"}`:           0,
		`{"policy":"random_choose"}`:        0,
	} {
		for _, clients := range []int{1, 2, 16} {
			s := selectionOf(2, 1)
			for i := range 2 {
				memberAt(s, i).latency.Store(int64(even[i]))
			}
			counts := closedLoop(s, loadedPolicy(t, config), clients, rounds, even)
			got := float64(counts[0]) / rounds
			switch {
			case want > 0 && math.Abs(got-want) > 0.05:
				t.Errorf("%s, %d clients: the heavier got %.2f, want %.2f", config, clients, got, want)
			case want == 0 && (got < 0.47 || got > 0.72):
				t.Errorf("%s, %d clients: the heavier got %.2f", config, clients, got)
			}
		}
	}
}

// A member that answers slowly gets less in proportion, whatever the concurrency: its
// latency counts once, though it also keeps requests in flight for longer.
func TestP2CSlowMember(t *testing.T) {
	const rounds = 12_000
	took := []time.Duration{10 * time.Millisecond, 50 * time.Millisecond}
	for _, weights := range [][]int{{1, 1}, {1, 5}} {
		for _, clients := range []int{1, 2, 16, 64} {
			s := selectionOf(weights...)
			for i := range 2 {
				memberAt(s, i).latency.Store(int64(took[i]))
			}
			counts := closedLoop(s, loadedPolicy(t, `{"policy":"p2c_ewma"}`), clients, rounds, took)
			got, want := float64(counts[1])/rounds, float64(weights[1])/float64(weights[1]+5)
			if math.Abs(got-want) > 0.1 { // counting latency twice gives it 0.04 or 0.17
				t.Errorf("weights %v, %d clients: the slow one got %.3f, want %.3f", weights, clients, got, want)
			}
		}
	}
}

// Tunnels stand for as long on a member that is slow to open them: what is in flight is
// then in proportion to what each gets.
func TestP2CSlowMemberWithTunnels(t *testing.T) {
	s := selectionOf(1, 1)
	memberAt(s, 0).latency.Store(int64(10 * time.Millisecond))
	memberAt(s, 1).latency.Store(int64(50 * time.Millisecond))
	got := keepInFlight(s, loadedPolicy(t, `{"policy":"p2c_ewma"}`), 300, 30_000)
	if math.Abs(got[1]-50) > 15 {
		t.Errorf("%.0f in flight, want about [250 50]", got)
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
