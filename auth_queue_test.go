package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// gatedAuth is an Auth with one slot whose checks wait for a gate, and say which passwords
// were checked.
type gatedAuth struct {
	*Auth
	gate  chan struct{}
	order chan string
}

func newGated(t *testing.T) *gatedAuth {
	h := &gatedAuth{Auth: newAuth(t, BasicUser{"bob", bcrypt4}), gate: make(chan struct{}), order: make(chan string, 4*maxChecksWaiting)}
	h.verifier.queue.free, h.verifier.nslots = 1, 1
	h.classes[0].comparer = comparerFunc(func(_, password []byte) (bool, error) {
		h.order <- string(password)
		<-h.gate
		return bytes.Equal(password, []byte("secret")), nil
	})
	return h
}

// Checks whose clients have left are not made, and hold up nobody.
func TestAuthChecksEndWithTheirClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range maxChecksPerClient {
			wg.Go(func() {
				if _, _, _, err := h.login(ctx, "192.0.2.1", basicHeader("nobody", fmt.Sprint(i))); !errors.Is(err, context.Canceled) {
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
			user, _, _, _ := h.login(t.Context(), "192.0.2.1", basicHeader("bob", "secret"))
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
func TestAuthSharedCheckOutlivesOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		ctx, leave := context.WithCancel(t.Context())
		first, second := make(chan error), make(chan string)
		go func() {
			_, _, _, err := h.login(ctx, "192.0.2.1", basicHeader("bob", "secret"))
			first <- err
		}()
		synctest.Wait()
		go func() {
			user, _, _, _ := h.login(t.Context(), "192.0.2.2", basicHeader("bob", "secret"))
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

// Clients take turns: one that guesses holds up another by one check, and is refused
// when it has too many.
func TestAuthClientsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		var wg sync.WaitGroup
		var refused atomic.Int64
		for i := range maxChecksPerClient + 3 {
			wg.Go(func() {
				if _, _, _, err := h.login(t.Context(), "192.0.2.1", basicHeader("nobody", fmt.Sprint(i))); err != nil {
					if refused.Add(1); classify(err) != failClientLogins || retryAfter(err) <= 0 {
						t.Errorf("refused with %v", err)
					}
				}
			})
			synctest.Wait()
		}
		if n := refused.Load(); n != 2 {
			t.Errorf("%d refused, want 2: one check runs beside those that wait", n)
		}
		wg.Go(func() {
			if user, _, _, _ := h.login(t.Context(), "198.51.100.1", basicHeader("bob", "secret")); user != "bob" {
				t.Errorf("got %q", user)
			}
		})
		synctest.Wait()
		close(h.gate)
		wg.Wait()
		close(h.order)
		place := 0
		for password := range h.order {
			if place++; password == "secret" {
				break
			}
		}
		if place > 3 {
			t.Errorf("another client's check was number %d", place)
		}
	})
}

// There is a bound on all checks that wait, whatever the addresses.
func TestAuthWaitingChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGated(t)
		var wg sync.WaitGroup
		var refused atomic.Int64
		for i := range maxChecksWaiting + 3 {
			wg.Go(func() {
				if _, _, _, err := h.login(t.Context(), fmt.Sprintf("2001:db8:0:%x::1", i), basicHeader("nobody", fmt.Sprint(i))); err != nil {
					if refused.Add(1); classify(err) != failLogins || retryAfter(err) <= 0 {
						t.Errorf("refused with %v", err)
					}
				}
			})
			synctest.Wait()
		}
		if n := refused.Load(); n != 2 {
			t.Errorf("%d refused, want 2", n)
		}
		close(h.gate)
		wg.Wait()
		if q := &h.verifier.queue; q.waiting != 0 || q.free != 1 || len(q.lines) != 0 || len(q.turns) != 0 {
			t.Errorf("left behind: %d waiting, %d free, %d lines, %d turns", q.waiting, q.free, len(q.lines), len(q.turns))
		}
	})
}

// The addresses of one IPv6 network are one client.
func TestCheckingClient(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "": "", "@": "@",
		"2001:db8::1": "2001:db8::/64", "2001:db8::ffff:2": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := checkingClient(ip); got != want {
			t.Errorf("%q: %q, want %q", ip, got, want)
		}
	}
}

// A comparer that panics is a failed request, and no end of the process.
func TestAuthComparerPanics(t *testing.T) {
	a := newAuth(t, BasicUser{"bob", bcrypt4})
	a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) { panic("no") })
	if _, _, _, err := a.login(t.Context(), "", basicHeader("bob", "secret")); err == nil || classify(err) != failInternal {
		t.Errorf("got %v", err)
	}
	if a.verifier.queue.free != 2 || len(a.verifier.flights) != 0 {
		t.Error("the slot is lost")
	}
}

// What is remembered of a user is pushed out by no other, however many there are and
// whatever they send, and goes with the last configuration that has the user.
func TestAuthMemoryOfEachUser(t *testing.T) {
	long := strings.Repeat("x", 72) // bcrypt looks no further
	a := newAuth(t, BasicUser{"bob", bcrypt4})
	a.authenticate(basicHeader("bob", "secret"))
	many := make([]BasicUser, 2000)
	for i := range many {
		many[i] = BasicUser{fmt.Sprint("user", i), bcrypt4}
	}
	others := newAuthAfter(t, a, many...)
	others.classes[0].comparer = comparerFunc(func(_, password []byte) (bool, error) { return bytes.HasPrefix(password, []byte(long)), nil })
	for i := range many {
		for _, tail := range []string{"", "1", "2"} {
			others.authenticate(basicHeader(many[i].Username, long+tail))
		}
		others.authenticate(basicHeader("bob", fmt.Sprint("wrong", i)))
	}
	counters := countComparers(a)
	if user, _, _ := a.authenticate(basicHeader("bob", "secret")); user != "bob" || takeCounts(counters) != "[0]" {
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
