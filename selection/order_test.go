package selection

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// sequence is what a policy selects, as one letter for each member.
func sequence(s *Choice, p Policy, rounds int) string {
	var b strings.Builder
	for range rounds {
		b.WriteByte("abcdefghijklmnopqrstuvwxyz"[p.Select(s)])
	}
	return b.String()
}

func TestFirst(t *testing.T) {
	p := loadedPolicy(t, `{"policy":"first"}`)
	s := selectionOf(1, 9, 1)
	if got := sequence(s, p, 4); got != "aaaa" {
		t.Errorf("got %s, want aaaa", got)
	}
	memberAt(s, 0).down.Store(true)
	if got := sequence(s, p, 4); got != "bbbb" {
		t.Errorf("first down: got %s, want bbbb", got)
	}
	s.MarkTried(1)
	if got := sequence(s, p, 4); got != "cccc" {
		t.Errorf("first down, second tried: got %s, want cccc", got)
	}
}

func TestFirstHonoursFactor(t *testing.T) {
	const rounds = 20_000
	p := loadedPolicy(t, `{"policy":"first"}`)
	s := selectionOf(1, 1, 1)
	memberAt(s, 0).setFactor(0.1)
	counts := shares(s, p, rounds)
	near(t, "first, coming back", counts[0], rounds, 0.1)
	near(t, "second", counts[1], rounds, 0.9)

	memberAt(s, 1).down.Store(true)
	memberAt(s, 2).setFactor(0.5)
	counts = shares(s, p, rounds)
	near(t, "first, when all hold back", counts[0], rounds, 0.1+0.9*0.5)
	near(t, "third", counts[2], rounds, 0.9*0.5)
}

func TestRoundRobinSequence(t *testing.T) {
	p := loadedPolicy(t, `{"policy":"round_robin"}`)
	s := selectionOf(1, 7, 1, 1)
	if got := sequence(s, p, 9); got != "abcdabcda" {
		t.Errorf("got %s", got)
	}
	// The member behind one that is down does not get two turns.
	memberAt(s, 1).down.Store(true)
	if got := sequence(s, p, 7); got != "cdacdac" {
		t.Errorf("second down: got %s", got)
	}
	memberAt(s, 2).down.Store(true)
	if got := sequence(s, p, 5); got != "dadad" {
		t.Errorf("second and third down: got %s", got)
	}
	memberAt(s, 1).down.Store(false)
	memberAt(s, 2).down.Store(false)
	if got := sequence(s, p, 5); got != "abcda" {
		t.Errorf("all up again: got %s", got)
	}
}

// Many members down, and none of those up gets more than its share.
func TestRoundRobinAmongFewEligible(t *testing.T) {
	for _, config := range []string{`{"policy":"round_robin"}`, `{"policy":"weighted_round_robin"}`} {
		s := selectionOf(equalWeights(1000)...)
		for i := range s.Members {
			memberAt(s, i).down.Store(i != 17 && i != 18 && i != 900)
		}
		counts := shares(s, loadedPolicy(t, config), 300)
		if counts[17] != 100 || counts[18] != 100 || counts[900] != 100 {
			t.Errorf("%s: %d, %d, %d, want 100 each", config, counts[17], counts[18], counts[900])
		}
	}
}

// When all hold back, turns are still given in proportion.
func TestRoundRobinAllHoldBack(t *testing.T) {
	const rounds = 20_000
	s := selectionOf(1, 1)
	memberAt(s, 0).setFactor(0.001)
	memberAt(s, 1).setFactor(0.003)
	counts := shares(s, loadedPolicy(t, `{"policy":"round_robin"}`), rounds)
	if share := float64(counts[0]) / rounds; share < 0.22 || share > 0.28 {
		t.Errorf("a third of the other's factor: %v, want about 0.25", share)
	}
}

func TestWeightedRoundRobinSequence(t *testing.T) {
	for _, test := range []struct {
		weights []int
		want    string
	}{
		{[]int{1}, "aaa"},
		{[]int{1, 1, 1, 1}, "abcdabcdab"},
		{[]int{50, 50}, "abab"},
		{[]int{5, 1, 1}, "aaabaacaaabaac"},
		{[]int{1, 1, 5}, "accbcccaccbccc"},
		{[]int{2, 1}, "aabaab"},
		{[]int{20, 10}, "aabaab"},
		{[]int{3, 2}, "abaabab"},
		{[]int{1, 2, 3, 4}, "abcddcbdcd"},
		{[]int{0, -3}, "abab"},
	} {
		s := selectionOf(test.weights...)
		if got := sequence(s, loadedPolicy(t, `{"policy":"weighted_round_robin"}`), len(test.want)); got != test.want {
			t.Errorf("weights %v: got %s, want %s", test.weights, got, test.want)
		}
	}
}

// Whatever the weights, a cycle gives each member its exact share, and at no
// moment is one further than one turn (rounded up by the phases of the others)
// from where it should be.
func TestWeightedRoundRobinIsSmooth(t *testing.T) {
	for range 200 {
		weights := make([]int, 1+rand.IntN(12))
		sum := 0
		for i := range weights {
			weights[i] = 1 + rand.IntN(50)
			sum += weights[i]
		}
		s, p := selectionOf(weights...), new(WeightedRoundRobin)
		counts := make([]int, len(weights))
		for k := range sum {
			counts[p.Select(s)]++
			for i, w := range weights {
				ideal := float64((k+1)*w) / float64(sum)
				if off := math.Abs(float64(counts[i]) - ideal); off > 2 {
					t.Fatalf("weights %v, turn %d: member %d had %d turns, want about %.2f", weights, k, i, counts[i], ideal)
				}
			}
		}
		if !slices.Equal(counts, weights) {
			t.Fatalf("weights %v: a cycle gave %v", weights, counts)
		}
	}
}

func TestWeightedRoundRobinHugeWeights(t *testing.T) {
	s := selectionOf(1_000_003, 500_001, 1, math.MaxInt)
	memberAt(s, 3).down.Store(true)
	p := new(WeightedRoundRobin)
	if n := len(p.turns(s.Members).cycle); n > maxTurns+len(s.Members) {
		t.Errorf("a cycle of %d turns", n)
	}
	memberAt(s, 3).weight.Store(1)
	p = new(WeightedRoundRobin)
	counts := shares(s, p, 15_000)
	if counts[0] < 9_900 || counts[0] > 10_100 || counts[1] < 4_900 || counts[1] > 5_100 {
		t.Errorf("got %v, want 2 to 1", counts)
	}
}

func TestWeightedRoundRobinWhenMembersChange(t *testing.T) {
	p := new(WeightedRoundRobin)
	s := selectionOf(2, 1)
	if got := sequence(s, p, 4); got != "aaba" {
		t.Errorf("got %s", got)
	}
	// The same members in another slice go on where they were.
	s.Members = slices.Clone(s.Members)
	if got := sequence(s, p, 4); got != "abaa" {
		t.Errorf("copied: got %s", got)
	}
	// A member of that weight becomes another one.
	s.Members = selectionOf(1, 1, 1).Members
	if got := sequence(s, p, 6); got != "abcabc" {
		t.Errorf("three: got %s", got)
	}
	// One of the same key comes in with another weight.
	s.Members = selectionOf(4, 1, 1).Members
	counts := shares(s, p, 600)
	if counts[0] != 400 || counts[1] != 100 {
		t.Errorf("weight 4: got %v", counts)
	}
	// Tiers in turn keep their own turns.
	other := selectionOf(1, 1)
	other.Members[0].(*fakeMember).key, other.Members[1].(*fakeMember).key = 1, 2
	fresh, b := new(WeightedRoundRobin), strings.Builder{}
	first := selectionOf(1, 1, 1)
	for range 4 {
		b.WriteString(sequence(first, fresh, 1) + sequence(other, fresh, 1))
	}
	if b.String() != "aabbcaab" {
		t.Errorf("two tiers in turn: got %s", b.String())
	}
}

func TestWeightedRoundRobinKeepsFewTurnLists(t *testing.T) {
	p := new(WeightedRoundRobin)
	for i := range 50 {
		s := selectionOf(i+1, 7)
		sequence(s, p, 3)
	}
	if n := len(*p.lists.Load()); n != maxTurnLists {
		t.Errorf("%d lists, want %d", n, maxTurnLists)
	}
}

// In use by many, turns are counted exactly.
func TestRoundRobinConcurrent(t *testing.T) {
	for _, config := range []string{`{"policy":"round_robin"}`, `{"policy":"weighted_round_robin"}`} {
		s, p := selectionOf(1, 1, 1, 1, 1), loadedPolicy(t, config)
		const goroutines, rounds = 8, 1000
		results := make(chan []int)
		for range goroutines {
			go func() { results <- shares(&Choice{Members: s.Members}, p, rounds) }()
		}
		sum := make([]int, len(s.Members))
		for range goroutines {
			for i, n := range <-results {
				sum[i] += n
			}
		}
		if got, want := fmt.Sprint(sum), fmt.Sprint(slices.Repeat([]int{goroutines * rounds / 5}, 5)); got != want {
			t.Errorf("%s: %s, want %s", config, got, want)
		}
	}
}
