package selection

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// fakeMember is an upstream proxy that a test sets.
type fakeMember struct {
	key      uint64
	weight   atomic.Int64
	factor   atomic.Uint64 // bits
	inFlight atomic.Int64
	latency  atomic.Int64
	down     atomic.Bool
}

func (m *fakeMember) Key() uint64            { return m.key }
func (m *fakeMember) Weight() int            { return int(m.weight.Load()) }
func (m *fakeMember) Factor() float64        { return math.Float64frombits(m.factor.Load()) }
func (m *fakeMember) InFlight() int          { return int(m.inFlight.Load()) }
func (m *fakeMember) Latency() time.Duration { return time.Duration(m.latency.Load()) }
func (m *fakeMember) Available() bool        { return !m.down.Load() }
func (m *fakeMember) setFactor(f float64)    { m.factor.Store(math.Float64bits(f)) }
func memberAt(s *Choice, i int) *fakeMember  { return s.Members[i].(*fakeMember) }

// selectionOf makes a selection among members of these weights.
func selectionOf(weights ...int) *Choice {
	s := &Choice{
		Request:     &http.Request{Host: "origin.example", Header: make(http.Header)},
		ClientIP:    "192.0.2.1",
		Destination: "origin.example:443",
	}
	for i, w := range weights {
		m := &fakeMember{key: stableHash(fnvOffset, fmt.Sprint("http://10.0.0.", i, ":3128"))}
		m.weight.Store(int64(w))
		m.setFactor(1)
		s.Members = append(s.Members, m)
	}
	return s
}

func equalWeights(n int) []int {
	weights := make([]int, n)
	for i := range weights {
		weights[i] = 1
	}
	return weights
}

// loadedPolicy returns a policy as a configuration makes it.
func loadedPolicy(tb testing.TB, config string) Policy {
	tb.Helper()
	p, err := tryPolicy(tb, config)
	if err != nil {
		tb.Fatalf("%s: %v", config, err)
	}
	return p
}

func tryPolicy(tb testing.TB, config string) (Policy, error) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	tb.Cleanup(cancel)
	group := &policyHolder{PolicyRaw: []byte(config)}
	return Load(ctx, group, "PolicyRaw", group.PolicyRaw, nil)
}

// policyHolder has a policy, as a group of upstream proxies will.
type policyHolder struct {
	PolicyRaw json.RawMessage `caddy:"namespace=http.egress.selection_policies inline_key=policy"`
}

// everyPolicy is the JSON of each policy.
var everyPolicy = []string{
	`{"policy":"random"}`,
	`{"policy":"random_choose"}`,
	`{"policy":"random_choose","choose":5}`,
	`{"policy":"round_robin"}`,
	`{"policy":"weighted_round_robin"}`,
	`{"policy":"least_conn"}`,
	`{"policy":"p2c_ewma"}`,
	`{"policy":"first"}`,
	`{"policy":"client_ip_hash"}`,
	`{"policy":"user_hash"}`,
	`{"policy":"destination_hash"}`,
	`{"policy":"header","field":"X-Session"}`,
	`{"policy":"header","field":"Host"}`,
	`{"policy":"cookie","name":"sid"}`,
}

func forEveryPolicy(t *testing.T, test func(t *testing.T, p Policy)) {
	for _, config := range everyPolicy {
		t.Run(strings.Trim(config, "{}"), func(t *testing.T) { test(t, loadedPolicy(t, config)) })
	}
}

// shares counts how often each member is selected.
func shares(s *Choice, p Policy, rounds int) []int {
	counts := make([]int, len(s.Members))
	for range rounds {
		counts[p.Select(s)]++
	}
	return counts
}

// near fails unless got is what a draw with that probability gives in so many
// rounds, within 6 sigma: a correct policy fails once in 500 million.
func near(t *testing.T, what string, got, rounds int, probability float64) {
	t.Helper()
	mean := float64(rounds) * probability
	if sigma := math.Sqrt(mean * (1 - probability)); math.Abs(float64(got)-mean) > 6*sigma+1 {
		t.Errorf("%s: %d of %d, want about %.0f (sigma %.0f)", what, got, rounds, mean, sigma)
	}
}

func TestSelectNoneEligible(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		if got := p.Select(&Choice{Request: &http.Request{}}); got != -1 {
			t.Errorf("no members: %d, want -1", got)
		}
		for _, n := range []int{1, 3, 100} {
			s := selectionOf(equalWeights(n)...)
			for i := range n {
				memberAt(s, i).down.Store(true)
			}
			if got := p.Select(s); got != -1 {
				t.Errorf("%d members, all down: %d, want -1", n, got)
			}
		}
	})
}

func TestSelectOnlyOneEligible(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		for _, n := range []int{1, 2, 9, 1000} {
			s := selectionOf(equalWeights(n)...)
			for i := range n {
				memberAt(s, i).down.Store(true)
			}
			for range 20 {
				i := rand.IntN(n)
				memberAt(s, i).down.Store(false)
				// A factor of nothing and no weight is no reason to
				// serve nobody.
				memberAt(s, i).setFactor([]float64{1, 0.01, 0, -1, math.NaN()}[rand.IntN(5)])
				memberAt(s, i).weight.Store(rand.Int64N(3))
				if got := p.Select(s); got != i {
					t.Errorf("%d members, only %d up: %d", n, i, got)
				}
				memberAt(s, i).down.Store(true)
			}
		}
	})
}

// A heavy member that is down must not hide a light one, however long its turns
// are.
func TestSelectBehindHeavyMemberThatIsDown(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		s := selectionOf(1_000_000, 1)
		memberAt(s, 0).down.Store(true)
		for range 50 {
			if got := p.Select(s); got != 1 {
				t.Fatalf("got %d, want 1", got)
			}
		}
	})
}

func TestSelectTriesEachOnce(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		for _, n := range []int{1, 3, 7, 20} {
			s := selectionOf(equalWeights(n)...)
			seen := make(map[int]bool)
			for range n {
				i := p.Select(s)
				if i < 0 || seen[i] {
					t.Fatalf("%d members: got %d after %v", n, i, seen)
				}
				seen[i] = true
				s.MarkTried(i)
			}
			if got := p.Select(s); got != -1 {
				t.Errorf("%d members, all tried: %d, want -1", n, got)
			}
		}
	})
}

func TestSelectionTried(t *testing.T) {
	s := selectionOf(equalWeights(8)...)
	for _, i := range []int{6, 1, 6, 3, 0, 5, 1, 5} {
		s.MarkTried(i)
	}
	eligible := func() (got []int) {
		for i := range s.Members {
			if s.Eligible(i) {
				got = append(got, i)
			}
		}
		return got
	}
	if got := fmt.Sprint(eligible()); got != "[2 4 7]" || s.Tried() != 5 {
		t.Errorf("eligible %s after %d tried, want [2 4 7] after 5", got, s.Tried())
	}
	// What was tried stays tried in another list of members.
	s.Members = s.Members[4:]
	if got := fmt.Sprint(eligible()); got != "[0 3]" {
		t.Errorf("eligible %s in the other list, want [0 3]", got)
	}
}

// A member in slow start gets a part of its share, whatever selects it. The
// bounds are wide where the policy is not about a fixed share.
func TestSelectHonoursFactor(t *testing.T) {
	const rounds = 20_000
	for _, n := range []int{3, 12} {
		forEveryPolicy(t, func(t *testing.T, p Policy) {
			if _, ok := p.(*First); ok {
				t.Skip("has its own test")
			}
			s := selectionOf(equalWeights(n)...)
			memberAt(s, 1).setFactor(0.1)
			got := 0
			for k := range rounds {
				s.ClientIP = fmt.Sprint("192.0.2.", k)
				s.User, s.Destination, s.Request.Host = s.ClientIP, s.ClientIP, s.ClientIP
				if p.Select(s) == 1 {
					got++
				}
			}
			full := rounds / n
			if got > full/4 {
				t.Errorf("%d members: a factor of 0.1 got %d, a full share is %d", n, got, full)
			}
			// p2c_ewma with nothing in flight leaves it to the others.
			if _, ok := p.(*EWMA); !ok && got < full/20 {
				t.Errorf("%d members: a factor of 0.1 got only %d, a full share is %d", n, got, full)
			}
		})
	}
}

func TestSelectDoesNotAllocate(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		for _, n := range []int{1, 3, 100, 1000} {
			s := selectionOf(equalWeights(n)...)
			s.Request.Header.Set("X-Session", "abc")
			s.Request.Header.Set("Cookie", `theme=dark; sid="abc"`)
			for i := range n {
				memberAt(s, i).inFlight.Store(int64(i % 50))
				memberAt(s, i).down.Store(i%10 == 5)
				if i%7 == 3 {
					memberAt(s, i).setFactor(0.5)
				}
			}
			p.Select(s) // weighted_round_robin lays out its turns
			if got := testing.AllocsPerRun(100, func() { p.Select(s) }); got != 0 {
				t.Errorf("%d members: %v allocations", n, got)
			}
		}
	})
}

// While availability flips, a policy finds a member as long as one is up
// throughout, and returns none but members.
func TestSelectWhileAvailabilityFlips(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		const n, steady = 20, 13
		s := selectionOf(equalWeights(n)...)
		stop := make(chan struct{})
		var flips, selects sync.WaitGroup
		flips.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i := rand.IntN(n); i != steady {
					m := memberAt(s, i)
					m.down.Store(!m.down.Load())
					m.inFlight.Store(rand.Int64N(100))
					m.weight.Store(1 + rand.Int64N(3))
					m.setFactor(rand.Float64())
					m.latency.Store(rand.Int64N(int64(time.Second)))
				}
			}
		})
		for range 4 {
			selects.Go(func() {
				own := &Choice{Members: s.Members, Request: s.Request}
				for k := range 2000 {
					own.ClientIP = fmt.Sprint(k)
					if i := p.Select(own); i < 0 || i >= n {
						t.Errorf("got %d with member %d up", i, steady)
						return
					}
				}
			})
		}
		selects.Wait()
		close(stop)
		flips.Wait()
	})
}
