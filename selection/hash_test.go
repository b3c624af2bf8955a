package selection

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
)

// placesOf is where destination_hash puts so many keys.
func placesOf(s *Choice, keys int) []int {
	p, where := DestinationHash{}, make([]int, keys)
	for k := range where {
		s.Destination = fmt.Sprintf("host%d.example:443", k)
		where[k] = p.Select(s)
	}
	return where
}

func TestRendezvousIsInProportionToShare(t *testing.T) {
	const keys = 60_000
	s := selectionOf(1, 2, 3, 1)
	memberAt(s, 3).setFactor(0.1)
	counts := make([]int, 4)
	for _, i := range placesOf(s, keys) {
		counts[i]++
	}
	for i, share := range []float64{1, 2, 3, 0.1} {
		near(t, fmt.Sprint("member ", i), counts[i], keys, share/6.1)
	}
}

// Even keys and members that differ in a bit are spread evenly.
func TestRendezvousOfPoorKeys(t *testing.T) {
	const keys, n = 30_000, 10
	s := selectionOf(equalWeights(n)...)
	for i := range n {
		memberAt(s, i).key = uint64(i)
	}
	counts := make([]int, n)
	for k := range keys {
		counts[rendezvous(s, uint64(k))]++
	}
	for i := range n {
		near(t, fmt.Sprint("member ", i), counts[i], keys, 1./n)
	}
}

// What is stable over processes must not change with a version either: users
// would lose their upstream with an update.
func TestRendezvousIsTheSameEverywhere(t *testing.T) {
	if h := stableHash(fnvOffset, "foobar"); h != 0x85944171f73967e8 { // FNV-1a's own test vector
		t.Errorf("stableHash is %#x", h)
	}
	if got, want := placesOf(selectionOf(1, 2, 3, 1), 16), []int{1, 2, 2, 2, 1, 1, 2, 2, 3, 3, 2, 2, 0, 0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("placesOf %v, want %v", got, want)
	}
}

func TestRendezvousMovesOnlyTheKeysOfAMemberThatGoes(t *testing.T) {
	const keys = 20_000
	s := selectionOf(1, 2, 1, 3, 1)
	before := placesOf(s, keys)
	memberAt(s, 3).down.Store(true)
	for k, now := range placesOf(s, keys) {
		if before[k] == 3 && now == 3 || before[k] != 3 && now != before[k] {
			t.Fatalf("key %d moved from %d to %d when 3 went", k, before[k], now)
		}
	}
	memberAt(s, 3).down.Store(false)
	if !slices.Equal(placesOf(s, keys), before) {
		t.Error("not all keys are back when the member is")
	}
	// The order of the configuration does not matter.
	slices.Reverse(s.Members)
	for k, now := range placesOf(s, keys) {
		if 4-now != before[k] {
			t.Fatalf("key %d moved from %d to %d when the order changed", k, before[k], 4-now)
		}
	}
}

// Every key that the member of a rising factor gets, it keeps; nobody else gets
// one.
func TestRendezvousSlowStartMovesEachKeyOnce(t *testing.T) {
	const keys = 20_000
	s := selectionOf(1, 1, 1, 1)
	memberAt(s, 2).down.Store(true)
	before := placesOf(s, keys)
	memberAt(s, 2).down.Store(false)
	for _, f := range []float64{0.1, 0.3, 0.6, 1} {
		memberAt(s, 2).setFactor(f)
		now := placesOf(s, keys)
		taken := 0
		for k := range keys {
			if now[k] != before[k] && now[k] != 2 {
				t.Fatalf("factor %v: key %d moved from %d to %d", f, k, before[k], now[k])
			}
			if now[k] == 2 {
				taken++
			}
		}
		near(t, fmt.Sprint("factor ", f), taken, keys, f/(3+f))
		before = now
	}
}

func TestRendezvousBoundedLoad(t *testing.T) {
	s := selectionOf(1, 1, 2)
	home := rendezvous(s, 1)
	rest := func(inFlight int64) {
		for i := range s.Members {
			if i != home {
				memberAt(s, i).inFlight.Store(inFlight)
			}
		}
	}
	// Alone in an idle group: up to 32.
	memberAt(s, home).inFlight.Store(31)
	if got := rendezvous(s, 1); got != home {
		t.Errorf("31 in flight, others idle: %d, want %d", got, home)
	}
	memberAt(s, home).inFlight.Store(32)
	next := rendezvous(s, 1)
	if next == home {
		t.Errorf("32 in flight, others idle: still %d", next)
	}
	// What passes on goes where it would go without its own member.
	memberAt(s, home).down.Store(true)
	if got := rendezvous(s, 1); got != next {
		t.Errorf("passed to %d, next in line is %d", next, got)
	}
	memberAt(s, home).down.Store(false)

	// Under load: 1.25 times the fair share, which grows with the others.
	for others := 100; others < 110; others++ {
		rest(int64(others))
		most := 0
		for most < 1000 {
			memberAt(s, home).inFlight.Store(int64(most))
			if rendezvous(s, 1) != home {
				break
			}
			most++
		}
		// The one to come counts, on both sides.
		bound := func(inFlight int) float64 {
			return 1.25 * float64(inFlight+2*others) * share(s.Members[home]) / 4
		}
		if float64(most) > bound(most) || float64(most+1) <= bound(most+1) {
			t.Errorf("others have %d in flight each: at most %d, bounds %.2f and %.2f", others, most, bound(most), bound(most+1))
		}
	}
}

// However few the keys, no member goes beyond the bound.
func TestRendezvousKeepsEveryMemberWithinTheBound(t *testing.T) {
	const n, load = 8, 4000
	s := selectionOf(1, 1, 1, 1, 1, 1, 1, 3)
	for k := range load {
		memberAt(s, rendezvous(s, uint64(k%3))).inFlight.Add(1)
	}
	for i, m := range s.Members {
		if limit := loadBound * load * share(m) / (n + 2); float64(m.InFlight()) > limit+1 {
			t.Errorf("member %d has %d in flight, limit %.0f", i, m.InFlight(), limit)
		}
	}
}

func TestStickyPoliciesUseTheirKey(t *testing.T) {
	const n = 50
	fields := map[string]func(s *Choice, value string){
		"client ip":   func(s *Choice, v string) { s.ClientIP = v },
		"user":        func(s *Choice, v string) { s.User = v },
		"session":     func(s *Choice, v string) { s.Session = v },
		"destination": func(s *Choice, v string) { s.Destination = v },
		"host":        func(s *Choice, v string) { s.Request.Host = v },
		"header":      func(s *Choice, v string) { s.Request.Header.Set("X-Session", v) },
		"cookie":      func(s *Choice, v string) { s.Request.Header.Set("Cookie", "a=b; sid="+v) },
	}
	for _, test := range []struct {
		policy string
		set    []string // before, to something that is kept
		moves  []string // fields that matter then
	}{
		{`{"policy":"client_ip_hash"}`, []string{"user", "session", "header", "cookie"}, []string{"client ip"}},
		{`{"policy":"user_hash"}`, []string{"client ip"}, []string{"client ip", "user", "session"}},
		{`{"policy":"user_hash"}`, []string{"user"}, []string{"user", "session"}},
		{`{"policy":"user_hash"}`, []string{"user", "session"}, []string{"user", "session"}},
		{`{"policy":"destination_hash"}`, []string{"user", "session", "header", "cookie"}, []string{"destination"}},
		{`{"policy":"header","field":"x-session"}`, []string{"header"}, []string{"header"}},
		{`{"policy":"header","field":"host"}`, []string{"header"}, []string{"host"}},
		{`{"policy":"cookie","name":"sid"}`, []string{"cookie"}, []string{"cookie"}},
	} {
		p := loadedPolicy(t, test.policy)
		for name, set := range fields {
			s := selectionOf(equalWeights(n)...)
			for _, f := range test.set {
				fields[f](s, "kept")
			}
			seen := make(map[int]bool)
			for k := range 20 {
				set(s, fmt.Sprint("value", k))
				i := p.Select(s)
				if again := p.Select(s); again != i {
					t.Errorf("%s: %d, then %d", test.policy, i, again)
				}
				seen[i] = true
			}
			if moves := len(seen) > 1; moves != slices.Contains(test.moves, name) {
				t.Errorf("%s with %v set: %d members for 20 values of %s", test.policy, test.set, len(seen), name)
			}
		}
	}
}

func TestStickyPoliciesFallBack(t *testing.T) {
	for _, test := range []struct {
		policy string
		header http.Header
		want   string
	}{
		{`{"policy":"header","field":"X-Session","fallback":{"policy":"round_robin"}}`, nil, "abcabc"},
		{`{"policy":"header","field":"X-Session","fallback":{"policy":"round_robin"}}`, http.Header{"X-Session": {""}}, "abcabc"},
		{`{"policy":"header","field":"X-Session","fallback":{"policy":"round_robin"}}`, http.Header{"X-Session": {"s"}}, "bbbbbb"},
		{`{"policy":"cookie","name":"sid","fallback":{"policy":"first"}}`, nil, "aaaaaa"},
		{`{"policy":"cookie","name":"sid","fallback":{"policy":"first"}}`, http.Header{"Cookie": {"SID=s; sidx=s; x=sid; sid"}}, "aaaaaa"},
		{`{"policy":"cookie","name":"sid","fallback":{"policy":"first"}}`, http.Header{"Cookie": {"x=y", "sid=s"}}, "bbbbbb"},
		{
			`{"policy":"header","field":"A","fallback":{"policy":"cookie","name":"sid","fallback":{"policy":"first"}}}`,
			http.Header{"Cookie": {"sid=s"}},
			"bbbbbb",
		},
	} {
		s := selectionOf(1, 1, 1)
		s.Request.Header = test.header
		if got := sequence(s, loadedPolicy(t, test.policy), 6); got != test.want {
			t.Errorf("%s with %v: got %s, want %s", test.policy, test.header, got, test.want)
		}
	}
	// The default is random.
	const rounds = 3000
	for _, policy := range []string{`{"policy":"header","field":"X-Session"}`, `{"policy":"cookie","name":"sid"}`} {
		for i, n := range shares(selectionOf(1, 1, 1), loadedPolicy(t, policy), rounds) {
			near(t, fmt.Sprint(policy, " member ", i), n, rounds, 1./3)
		}
	}
}

func TestCookieValueIsThatOfNetHTTP(t *testing.T) {
	for _, lines := range [][]string{
		nil,
		{""},
		{"sid=a"},
		{"sid=a; sid=b"},
		{"x=y;sid=a"},
		{"x=y ; sid=a ; z"},
		{`sid="a"`},
		{"sid="},
		{"sid"},
		{"sid=a=b"},
		{"xsid=a"},
		{"sid=a", "sid=b"},
		{"x=y", "sid=b"},
		{";;; sid=a"},
		{"SID=a"},
	} {
		r := &http.Request{Header: http.Header{"Cookie": lines}}
		want := ""
		if c, err := r.Cookie("sid"); err == nil {
			want = c.Value
		}
		if got := cookieValue(r.Header, "sid"); got != want {
			t.Errorf("%q: got %q, want %q", lines, got, want)
		}
	}
}
