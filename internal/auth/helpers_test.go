package auth

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// newTest makes Users with a memory of their own.
func newTest(tb testing.TB, users ...User) *Users {
	tb.Helper()
	return newWith(tb, newVerifier(2), users)
}

// newAfter makes Users with the memory of those before.
func newAfter(tb testing.TB, before *Users, users ...User) *Users {
	tb.Helper()
	return newWith(tb, before.verifier, users)
}

func newWith(tb testing.TB, v *verifier, users []User) *Users {
	tb.Helper()
	a, err := newUsers(Config{Users: users, Hashes: hashes, Logger: zap.NewNop()}, v)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// authenticate is Login for a client that stays, where there is room for all.
func (u *Users) authenticate(header http.Header) (user, session string, failed Failure) {
	user, session, failed, err := u.Login(context.Background(), "192.0.2.1", header)
	if err != nil {
		panic(err)
	}
	return user, session, failed
}

// hashes has the algorithms as Caddy's modules have them.
func hashes(algorithm string) (Comparer, error) {
	switch algorithm {
	case "bcrypt":
		return comparerFunc(compareBcrypt), nil
	case "argon2id":
		return comparerFunc(compareArgon2id), nil
	}
	return nil, errors.New("no such algorithm")
}

func compareBcrypt(hashed, password []byte) (bool, error) {
	err := bcrypt.CompareHashAndPassword(hashed, password)
	if errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil
	}
	return err == nil, err
}

func compareArgon2id(hashed, password []byte) (bool, error) {
	var memory, passes uint32
	var threads uint8
	parts := bytes.Split(hashed, []byte("$"))
	if len(parts) != 6 {
		return false, errors.New("not of five parts")
	}
	if _, err := fmt.Fscanf(bytes.NewReader(parts[3]), "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil {
		return false, err
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(string(parts[4]))
	if err != nil {
		return false, err
	}
	key, err := base64.RawStdEncoding.Strict().DecodeString(string(parts[5]))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, argon2.IDKey(password, salt, passes, memory, threads, uint32(len(key)))) == 1, nil
}

// countingComparer counts the checks that reach the algorithm behind it.
type countingComparer struct {
	Comparer
	calls atomic.Int64
}

func (c *countingComparer) Compare(hashed, plaintext []byte) (bool, error) {
	c.calls.Add(1)
	return c.Comparer.Compare(hashed, plaintext)
}

// countComparers returns one counter for each class of a, in their order.
func countComparers(a *Users) []*countingComparer {
	var counters []*countingComparer
	for _, class := range a.classes {
		c := &countingComparer{Comparer: class.comparer}
		class.comparer = c
		counters = append(counters, c)
	}
	return counters
}

func takeCounts(counters []*countingComparer) string {
	var counts []int64
	for _, c := range counters {
		counts = append(counts, c.calls.Swap(0))
	}
	return fmt.Sprint(counts)
}

// comparerFunc is a hash algorithm made of one function.
type comparerFunc func(hashed, plaintext []byte) (bool, error)

func (f comparerFunc) Compare(hashed, plaintext []byte) (bool, error) { return f(hashed, plaintext) }
