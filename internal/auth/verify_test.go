package auth

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

// What is remembered belongs to a hash: a new configuration with the same one
// starts warm, one with a changed one does not let the old password in.
func TestMemoryOverReload(t *testing.T) {
	old := newTest(t, User{"bob", fixture.Bcrypt4})
	old.authenticate(fixture.BasicLogin("bob", "secret"))

	same := newAfter(t, old, User{"bob", fixture.Bcrypt4})
	counters := countComparers(same)
	if user, _, _ := same.authenticate(fixture.BasicLogin("bob", "secret")); user != "bob" || takeCounts(counters) != "[0]" {
		t.Error("the check was repeated after a reload")
	}

	otherHash := "$2a$04$h98ohS5O9ZfSs8RfoMKGZeksYkAck5mMrBn.Q8gbckgLTkIBOFWIa" // of "other"
	changed := newAfter(t, old, User{"bob", otherHash})
	if _, _, failed := changed.authenticate(fixture.BasicLogin("bob", "secret")); failed != BadPassword {
		t.Errorf("old password: got %q", failed)
	}
	if user, _, _ := changed.authenticate(fixture.BasicLogin("bob", "other")); user != "bob" {
		t.Error("new password refused")
	}
}

func TestEqualChecksRunOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTest(t, User{"bob", fixture.Bcrypt4})
		a.verifier = newVerifier(4)
		var calls atomic.Int64
		gate := make(chan struct{})
		a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) {
			calls.Add(1)
			<-gate
			return true, nil
		})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if user, _, _ := a.authenticate(fixture.BasicLogin("bob", "secret")); user != "bob" {
					t.Errorf("got %q", user)
				}
			})
		}
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d checks at once, want 1", n)
		}
		close(gate)
		wg.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d checks, want 1", n)
		}
	})
}

func TestFewSlowChecksAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name        string
		slots       int
		threads     int64
		wantAtOnce  int64
		wantInTotal int64
	}{
		{"one", 1, 1, 1, 9},
		{"three", 3, 1, 3, 9},
		{"checks of two threads", 4, 2, 2, 9},
		{"more threads than slots", 2, 8, 1, 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newTest(t, User{"bob", fixture.Bcrypt4})
				a.verifier = newVerifier(tc.slots)
				var running, total atomic.Int64
				gate := make(chan struct{})
				a.classes[0].threads = tc.threads
				a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) {
					running.Add(1)
					total.Add(1)
					<-gate
					running.Add(-1)
					return false, nil
				})
				var wg sync.WaitGroup
				for i := range 9 {
					wg.Go(func() { a.authenticate(fixture.BasicLogin("bob", fmt.Sprint(i))) })
				}
				synctest.Wait()
				if n := running.Load(); n != tc.wantAtOnce {
					t.Errorf("%d at once, want %d", n, tc.wantAtOnce)
				}
				close(gate)
				wg.Wait()
				if n := total.Load(); n != tc.wantInTotal {
					t.Errorf("%d in total, want %d", n, tc.wantInTotal)
				}
			})
		})
	}
}

func TestConcurrent(t *testing.T) {
	a := newTest(t, User{"b4", fixture.Bcrypt4}, User{"argon", fixture.Argon64}, User{"plain", "secret"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				for _, user := range []string{"b4", "argon", "plain"} {
					if got, _, failed := a.authenticate(fixture.BasicLogin(user, "secret")); got != user {
						t.Errorf("%s: got %q, %q", user, got, failed)
					}
					if got, _, failed := a.authenticate(fixture.BasicLogin(user, fmt.Sprint(i, j%3))); got != "" || failed != BadPassword {
						t.Errorf("%s, wrong password: got %q, %q", user, got, failed)
					}
				}
				if got, _, failed := a.authenticate(fixture.BasicLogin("eve", "secret")); got != "" || failed != UnknownUser {
					t.Errorf("stranger: got %q, %q", got, failed)
				}
			}
		})
	}
	wg.Wait()
}
