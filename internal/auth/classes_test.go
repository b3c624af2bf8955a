package auth

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-egress/egress/internal/testkit/fixture"
)

func TestHashes(t *testing.T) {
	var users []User
	for i, password := range []string{
		fixture.Bcrypt4, fixture.Bcrypt5, fixture.Argon64, "secret",
		strings.Replace(fixture.Bcrypt4, "$2a$", "$2b$", 1),
		strings.Replace(fixture.Bcrypt4, "$2a$", "$2y$", 1),
	} {
		users = append(users, User{fmt.Sprint("user", i), password})
	}
	a := newTest(t, users...)
	if len(a.classes) != 3 {
		t.Errorf("%d classes, want 3: the letter of bcrypt is no cost", len(a.classes))
	}
	for range 2 { // the second time from memory
		for _, u := range users {
			if user, _, failed := a.authenticate(fixture.BasicLogin(u.Name, "secret")); user != u.Name || failed != "" {
				t.Errorf("%s: got %q, %q", u.Password, user, failed)
			}
			if user, _, failed := a.authenticate(fixture.BasicLogin(u.Name, "Secret")); user != "" || failed != BadPassword {
				t.Errorf("%s, wrong password: got %q, %q", u.Password, user, failed)
			}
		}
	}
}

// Every failure takes one check of each class, whoever it is for: that is
// what the time of an answer shows.
func TestFailuresCostTheSame(t *testing.T) {
	a := newTest(t, User{"b4", fixture.Bcrypt4}, User{"b5", fixture.Bcrypt5}, User{"argon", fixture.Argon64}, User{"plain", "secret"})
	counters := countComparers(a)
	for i, user := range []string{"b4", "b5", "argon", "plain", "nobody", ""} {
		for range 2 { // failures are not remembered
			a.authenticate(fixture.BasicLogin(user, fmt.Sprint("wrong", i)))
			if got := takeCounts(counters); got != "[1 1 1]" {
				t.Errorf("user %q: checks by class %s, want [1 1 1]", user, got)
			}
		}
	}
}

func TestSuccessCostsItsOwnHashOnce(t *testing.T) {
	a := newTest(t, User{"b4", fixture.Bcrypt4}, User{"b5", fixture.Bcrypt5}, User{"plain", "secret"})
	counters := countComparers(a)
	for _, step := range []struct{ user, password, want string }{
		{"b4", "secret", "[1 0]"},
		{"b4", "secret", "[0 0]"}, // remembered
		{"b5", "secret", "[0 1]"}, // but for b4 only
		{"b4", "wrong", "[1 1]"},  // and with that password only
		{"plain", "secret", "[0 0]"},
		{"nobody", "secret", "[1 1]"},
	} {
		a.authenticate(fixture.BasicLogin(step.user, step.password))
		if got := takeCounts(counters); got != step.want {
			t.Errorf("%s:%s: checks by class %s, want %s", step.user, step.password, got, step.want)
		}
	}
}

// Whatever a comparer says, there is no user to log in as.
func TestStrangerNeverPasses(t *testing.T) {
	a := newTest(t, User{"bob", fixture.Bcrypt4})
	a.classes[0].comparer = comparerFunc(func(_, _ []byte) (bool, error) { return true, nil })
	a.stranger.class = a.classes[0]
	if user, _, failed := a.authenticate(fixture.BasicLogin("eve", "secret")); user != "" || failed != UnknownUser {
		t.Errorf("got %q, %q", user, failed)
	}
}

func TestPlainOnlyDoesNoSlowWork(t *testing.T) {
	a := newTest(t, User{"bob", "secret"})
	a.verifier = nil // would panic
	if _, _, failed := a.authenticate(fixture.BasicLogin("eve", "x")); failed != UnknownUser {
		t.Errorf("got %q", failed)
	}
}

func TestFakesAreValidAndOfTheSameCost(t *testing.T) {
	a := newTest(t, User{"b5", fixture.Bcrypt5}, User{"argon", fixture.Argon64})
	for i, prefix := range []string{fixture.Bcrypt5[:7], fixture.Argon64[:28]} {
		class := a.classes[i]
		if !bytes.HasPrefix(class.fake, []byte(prefix)) {
			t.Errorf("fake %s, want it to begin with %s", class.fake, prefix)
		}
		if same, err := class.comparer.Compare(class.fake, []byte("secret")); same || err != nil {
			t.Errorf("fake %s: %t, %v", class.fake, same, err)
		}
	}
}

func TestComparerErrorIsAFailure(t *testing.T) {
	var log bytes.Buffer
	a := newTest(t, User{"bob", fixture.Bcrypt4})
	a.logger = fixture.LogTo(&log)
	a.classes[0].comparer = comparerFunc(func(hashed, _ []byte) (bool, error) {
		return true, errors.New("cannot read " + string(hashed))
	})
	if user, _, failed := a.authenticate(fixture.BasicLogin("bob", "secret")); user != "" || failed != BadPassword {
		t.Errorf("got %q, %q", user, failed)
	}
	got := log.String()
	if !strings.Contains(got, `"user":"bob"`) || strings.Contains(got, "$2a$") || strings.Contains(got, "secret") {
		t.Errorf("logged %s", got)
	}
}
