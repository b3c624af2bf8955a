package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/caddy-egress/egress/internal/failure"
	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// gatedUsers are Users with one slot whose checks wait for a gate, and say which passwords
// were checked.
type gatedUsers struct {
	*Users
	gate  chan struct{}
	order chan string
}

func newGated(t *testing.T) *gatedUsers {
	h := &gatedUsers{Users: newTest(t, User{"bob", fixture.Bcrypt4}), gate: make(chan struct{}), order: make(chan string, 4*maxChecksWaiting)}
	h.verifier.queue.free, h.verifier.nslots = 1, 1
	h.classes[0].comparer = comparerFunc(func(_, password []byte) (bool, error) {
		h.order <- string(password)
		<-h.gate
		return bytes.Equal(password, []byte("secret")), nil
	})
	return h
}

// Checks whose clients have left are not made, and hold up nobody.
func TestChecksEndWithTheirClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				if _, _, _, err := h.Login(ctx, "192.0.2.1", fixture.BasicLogin("nobody", fmt.Sprint(i))); !errors.Is(err, context.Canceled) {
					t.Errorf("a client that has left: %v", err)
				}
			})
		}
		synctest.Wait()
		leave()
		wg.Wait()
		synctest.Wait()
		if n := h.verifier.queue.waiting; n != 0 {
			t.Errorf("%d checks still wait", n)
		}
		done := make(chan string)
		go func() {
			user, _, _, _ := h.Login(t.Context(), "192.0.2.1", fixture.BasicLogin("bob", "secret"))
			done <- user
		}()
		synctest.Wait()
		close(h.gate)
		if user := <-done; user != "bob" {
			t.Errorf("got %q", user)
		}
		close(h.order)
		var checked []string
		for password := range h.order {
			checked = append(checked, password)
		}
		if len(checked) != 2 || checked[1] != "secret" {
			t.Errorf("checked %q: the one that ran, and the one that is waited for", checked)
		}
	})
}

// A check that several wait for goes on when the first of them leaves.
func TestSharedCheckOutlivesOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		ctx, leave := context.WithCancel(t.Context())
		first, second := make(chan error), make(chan string)
		go func() {
			_, _, _, err := h.Login(ctx, "192.0.2.1", fixture.BasicLogin("bob", "secret"))
			first <- err
		}()
		synctest.Wait()
		go func() {
			user, _, _, _ := h.Login(t.Context(), "192.0.2.2", fixture.BasicLogin("bob", "secret"))
			second <- user
		}()
		synctest.Wait()
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(h.gate)
		if user := <-second; user != "bob" {
			t.Errorf("got %q", user)
		}
	})
}

// loginMany lets many clients try to log in while one check runs, one after the other,
// and returns how many were refused in which way.
func (h *gatedUsers) loginMany(t *testing.T, wg *sync.WaitGroup, n int, client func(i int) string) map[*failure.Failure]int {
	var mu sync.Mutex
	refused := make(map[*failure.Failure]int)
	for i := range n {
		wg.Go(func() {
			if _, _, _, err := h.Login(t.Context(), client(i), fixture.BasicLogin("nobody", client(i)+fmt.Sprint(i))); err != nil {
				if f := failure.Of(err); f != failure.Logins && f != failure.ClientLogins {
					t.Errorf("refused with %v", err)
				}
				mu.Lock()
				refused[failure.Of(err)]++
				mu.Unlock()
			}
		})
		synctest.Wait()
	}
	return refused
}

// emptied opens the gate and returns the passwords in the order of their checks.
func (h *gatedUsers) emptied(t *testing.T, wg *sync.WaitGroup) (checked []string) {
	close(h.gate)
	wg.Wait()
	close(h.order)
	for password := range h.order {
		checked = append(checked, password)
	}
	if q := &h.verifier.queue; q.waiting != 0 || q.free != 1 || len(q.networks) != 0 || len(q.turns) != 0 {
		t.Errorf("left behind: %d waiting, %d free, %d networks, %d turns", q.waiting, q.free, len(q.networks), len(q.turns))
	}
	return checked
}

// Clients take turns: one that guesses holds up another by one check.
func TestClientsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		var wg sync.WaitGroup
		h.loginMany(t, &wg, 100, func(int) string { return "192.0.2.1" })
		wg.Go(func() {
			if user, _, _, _ := h.Login(t.Context(), "198.51.100.1", fixture.BasicLogin("bob", "secret")); user != "bob" {
				t.Errorf("got %q", user)
			}
		})
		synctest.Wait()
		if place := slices.Index(h.emptied(t, &wg), "secret"); place < 0 || place > 2 {
			t.Errorf("another client's check was number %d", place+1)
		}
	})
}

// While there is room, many may wait behind one address: an office logs in after a
// restart. There is a bound on all of them.
func TestOneAddressMayHaveAllPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		var wg sync.WaitGroup
		refused := h.loginMany(t, &wg, maxChecksWaiting+3, func(int) string { return "192.0.2.1" })
		if len(refused) != 1 || refused[failure.ClientLogins] != 2 {
			t.Errorf("refused %v; want 2 of this client: one check runs beside those that wait", refused)
		}
		if n := len(h.emptied(t, &wg)); n != maxChecksWaiting+1 {
			t.Errorf("%d were checked", n)
		}
	})
}

// A few clients that guess passwords take no place from others: who has most waiting
// gives one up. Addresses of one IPv6 network count together.
func TestPlacesAreShared(t *testing.T) {
	for name, guesser := range map[string]func(i int) string{
		"five addresses": func(i int) string { return fmt.Sprint("192.0.2.", i%5) },
		"a /56":          func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%256) },
		"a /48":          func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i<<8&0xffff) },
		"no address":     func(int) string { return "@" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newGated(t)
				var wg sync.WaitGroup
				guessers := h.loginMany(t, &wg, maxChecksWaiting+10, guesser)
				before := guessers[failure.ClientLogins]
				others := h.loginMany(t, &wg, 20, func(i int) string { return fmt.Sprint("198.51.100.", i) })
				if len(others) != 0 {
					t.Errorf("others are refused: %v", others)
				}
				if n := guessers[failure.ClientLogins] - before; n != 20 || len(guessers) != 1 {
					t.Errorf("%d gave up their places, %v", n, guessers)
				}
				h.loginMany(t, &wg, 50, guesser)
				if len(others) != 0 {
					t.Errorf("others were pushed out: %v", others)
				}
				place := 0
				for i, password := range h.emptied(t, &wg) {
					if strings.HasPrefix(password, "198.51.100.") {
						place = i + 1
					}
				}
				// In a round, those that guess have a turn for each address at most.
				if place == 0 || place > 20+6 {
					t.Errorf("the last of the others was number %d", place)
				}
			})
		})
	}
}

// A neighbour in a network shares its places with whoever guesses there.
func TestPlacesInOneNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		var wg sync.WaitGroup
		h.loginMany(t, &wg, maxChecksWaiting+10, func(int) string { return "2001:db8::1" })
		if refused := h.loginMany(t, &wg, 20, func(int) string { return "2001:db8:0:100::1" }); len(refused) != 0 {
			t.Errorf("refused: %v", refused)
		}
		h.emptied(t, &wg)
	})
}

// There is a bound on all checks that wait, whatever the addresses.
func TestWaitingChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		var wg sync.WaitGroup
		refused := h.loginMany(t, &wg, maxChecksWaiting+3, func(i int) string { return fmt.Sprintf("2001:db8:%x::1", i) })
		if len(refused) != 1 || refused[failure.Logins] != 2 {
			t.Errorf("refused %v, want 2", refused)
		}
		h.emptied(t, &wg)
	})
}

// The addresses of one IPv6 customer are one client.
func TestCheckingClient(t *testing.T) {
	for ip, want := range map[string][2]string{
		"192.0.2.1":           {"192.0.2.1/32", "192.0.2.1/32"},
		"::ffff:192.0.2.1":    {"192.0.2.1/32", "192.0.2.1/32"},
		"":                    {"invalid Prefix", "invalid Prefix"},
		"@":                   {"invalid Prefix", "invalid Prefix"},
		"2001:db8:1:1ff::1":   {"2001:db8:1::/48", "2001:db8:1:100::/56"},
		"2001:db8:1:100::1:2": {"2001:db8:1::/48", "2001:db8:1:100::/56"},
		"fe80::1%eth0":        {"fe80::/48", "fe80::/56"},
	} {
		network, client := checkingClient(ip)
		if got := [2]string{network.String(), client.String()}; got != want {
			t.Errorf("%q: %q, want %q", ip, got, want)
		}
	}
}

// A comparer that panics is a failed request, and no end of the process.
func TestComparerPanics(t *testing.T) {
	a := newTest(t, User{"bob", fixture.Bcrypt4})
	a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) { panic("no") })
	if _, _, _, err := a.Login(t.Context(), "", fixture.BasicLogin("bob", "secret")); err == nil || failure.Of(err) != failure.Internal {
		t.Errorf("got %v", err)
	}
	if a.verifier.queue.free != 2 || len(a.verifier.flights) != 0 {
		t.Error("the slot is lost")
	}
}

// What is remembered of a user is pushed out by no other, however many there are and
// whatever they send, and goes with the last configuration that has the user.
func TestMemoryOfEachUser(t *testing.T) {
	long := strings.Repeat("x", 72) // bcrypt looks no further
	a := newTest(t, User{"bob", fixture.Bcrypt4})
	a.authenticate(fixture.BasicLogin("bob", "secret"))
	many := make([]User, 2000)
	for i := range many {
		many[i] = User{fmt.Sprint("user", i), fixture.Bcrypt4}
	}
	others := newAfter(t, a, many...)
	others.classes[0].comparer = comparerFunc(func(_, password []byte) (bool, error) { return bytes.HasPrefix(password, []byte(long)), nil })
	for i := range many {
		for _, tail := range []string{"", "1", "2"} {
			others.authenticate(fixture.BasicLogin(many[i].Name, long+tail))
		}
		others.authenticate(fixture.BasicLogin("bob", fmt.Sprint("wrong", i)))
	}
	counters := countComparers(a)
	if user, _, _ := a.authenticate(fixture.BasicLogin("bob", "secret")); user != "bob" || takeCounts(counters) != "[0]" {
		t.Error("bob was forgotten")
	}
	v := a.verifier
	runtime.KeepAlive(others)
	others = nil
	for len(v.known) > 1000 {
		runtime.GC()
		v.mu.Lock()
		v.purge = 0
		v.mu.Unlock()
		v.memory("somebody", nil)
	}
	runtime.KeepAlive(a)
}
