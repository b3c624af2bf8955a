package tunnels

import (
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// The list holds what was added and not removed, however that goes.
func TestLiveTunnels_Model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s List
		s.Enter(new(Policy))
		var want []*live
		for range rapid.IntRange(0, 40).Draw(t, "steps") {
			if len(want) == 0 || rapid.Bool().Draw(t, "add") {
				l := new(live)
				s.add(l, nil, 0)
				want = append(want, l)
			} else {
				i := rapid.IntRange(0, len(want)-1).Draw(t, "which")
				s.remove(want[i])
				want = slices.Delete(want, i, i+1)
			}
			got := s.all()
			slices.Reverse(got) // the last comes first
			if !slices.Equal(got, want) || s.count != len(want) {
				t.Fatalf("%d listed, %d counted, want %d", len(got), s.count, len(want))
			}
		}
	})
}

// While rules change and tunnels come and go, none is left in the end that the last
// rules forbid: it was listed in time, or asked the new rules itself.
func TestLiveTunnels_Race(t *testing.T) {
	book := newTestBook()
	p := policyOf(t)
	book.Live.Enter(&p.Policy)
	var wg sync.WaitGroup
	tunnels := make(chan *testTunnel, 200)
	for range 4 {
		wg.Go(func() {
			for range 50 {
				tunnels <- openTestTunnel(t, book, "bad.example:443", "8.8.8.8")
			}
		})
	}
	wg.Go(func() {
		p.access.Put(fixture.AccessList(t, "deny bad.example"))
		book.Live.Changed(&p.Policy)
	})
	wg.Wait()
	close(tunnels)
	for tun := range tunnels {
		tun.endedByPolicy(t)
	}
	if n := len(book.Live.all()); n != 0 {
		t.Errorf("%d tunnels are still listed", n)
	}
}

// Who goes over a long list finds each tunnel once that stands all the time, however many
// come and go meanwhile, and nothing stays behind.
func TestList_Each(t *testing.T) {
	b := newTestBook()
	list := &b.Live
	stays := make(map[*live]int)
	add := func() *live {
		l := new(live)
		list.add(l, nil, time.Hour)
		return l
	}
	for range 3*walked + 7 {
		stays[add()] = 0
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				list.remove(add())
			}
		})
	}
	var mu sync.Mutex
	for range 8 {
		wg.Go(func() {
			list.each(func(l *live) {
				mu.Lock()
				defer mu.Unlock()
				if _, ok := stays[l]; ok {
					stays[l]++
				}
			})
		})
	}
	wg.Wait()
	for _, n := range stays {
		if n != 8 {
			t.Fatalf("a tunnel was found %d times by 8", n)
		}
	}
	if n := len(list.all()); n != len(stays) || list.count != n {
		t.Errorf("%d listed, %d counted, %d there", n, list.count, len(stays))
	}
	for l := range stays {
		list.remove(l)
	}
	if list.first != nil || list.deadline != nil {
		t.Error("something stays behind")
	}
}
