package selection

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

// What is foreseen is what is selected, and to foresee changes nothing: round robin
// goes on as if nobody had asked.
func TestForesee_IsWhatIsSelected(t *testing.T) {
	forEveryPolicy(t, func(t *testing.T, p Policy) {
		rapid.Check(t, func(t *rapid.T) {
			s := selectionOf(rapid.SliceOfN(rapid.IntRange(1, 3), 1, 5).Draw(t, "weights")...)
			s.User = rapid.SampledFrom([]string{"", "alice"}).Draw(t, "user")
			if rapid.Bool().Draw(t, "keyed") {
				s.Request.Header.Set("X-Session", "7")
				s.Request.Header.Set("Cookie", "sid=7")
			}
			eligible := 0
			for i := range s.Members {
				m := memberAt(s, i)
				m.inFlight.Store(int64(rapid.IntRange(0, 3).Draw(t, "in flight")))
				m.setFactor(rapid.SampledFrom([]float64{1, 1, 0.5}).Draw(t, "factor"))
				m.down.Store(rapid.IntRange(0, 2).Draw(t, "down") == 0)
				if m.Available() {
					eligible++
				}
			}
			want, sure := Foresee(p, s)
			if !sure && eligible < 2 {
				t.Fatalf("not sure of %d eligible members", eligible)
			}
			for range 20 {
				got := p.Select(s)
				if sure && got != want {
					t.Fatalf("foresaw %d, selected %d", want, got)
				}
			}
		})
	})
}

// Policies that go by key, order or load are foreseen.
func TestForesee_Sure(t *testing.T) {
	for config, sure := range map[string]bool{
		`{"policy":"first"}`:                                                  true,
		`{"policy":"client_ip_hash"}`:                                         true,
		`{"policy":"user_hash"}`:                                              true,
		`{"policy":"destination_hash"}`:                                       true,
		`{"policy":"header","field":"Host"}`:                                  true,
		`{"policy":"header","field":"X-None"}`:                                false,
		`{"policy":"header","field":"X-None","fallback":{"policy":"first"}}`:  true,
		`{"policy":"cookie","name":"none"}`:                                   false,
		`{"policy":"cookie","name":"none","fallback":{"policy":"user_hash"}}`: true,
		`{"policy":"least_conn"}`:                                             true,
		`{"policy":"round_robin"}`:                                            false,
		`{"policy":"weighted_round_robin"}`:                                   false,
		`{"policy":"random"}`:                                                 false,
		`{"policy":"p2c_ewma"}`:                                               false,
	} {
		s := selectionOf(1, 1, 1)
		memberAt(s, 0).inFlight.Store(2)
		memberAt(s, 2).inFlight.Store(1)
		if _, got := Foresee(loadedPolicy(t, config), s); got != sure {
			t.Errorf("%s: sure %t", config, got)
		}
	}
}

func TestForesee_TakesNoTurn(t *testing.T) {
	p, s := loadedPolicy(t, `{"policy":"round_robin"}`), selectionOf(1, 1, 1)
	var order []int
	for range 6 {
		Foresee(p, s)
		order = append(order, p.Select(s))
	}
	if got, _ := json.Marshal(order); string(got) != "[0,1,2,0,1,2]" {
		t.Errorf("order %s", got)
	}
}
