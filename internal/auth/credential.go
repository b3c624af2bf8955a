package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
	"sync"
	"sync/atomic"
)

// credential is a user as the verifier needs it. The plain password is not
// kept, only its sum under the key of this process.
type credential struct {
	name  string
	hash  []byte      // the slow hash; nil for a plain password
	class *hashClass  // what checks hash; nil for a plain password
	known *remembered // of the slow hash; nil for a plain password
	id    *Stored
	sum   credentialSum // of name and plain password; random for a slow hash, so that it never matches
}

// Stored stands for the credential that a user has in a configuration: with another
// password or hash it is another one. It is compared by Knows, and holds nothing else.
type Stored struct {
	name string
	sum  credentialSum
}

// stored makes the Stored of a user.
func stored(c *credential) *Stored {
	s := &Stored{name: c.name, sum: c.sum}
	if c.hash != nil {
		s.sum = sumCredential([]byte(c.name), c.hash, nil)
	}
	return s
}

// User is the name of the user.
func (s *Stored) User() string { return s.name }

// credentialSum stands for a user, a hash and a password in memory. It is
// keyed, so that it is worth nothing outside of this process.
type credentialSum [sha256.Size]byte

// sumPool exists because a new HMAC costs more than using one.
var sumPool = sync.Pool{New: func() any {
	return &summer{mac: hmac.New(sha256.New, processKey())}
}}

type summer struct {
	mac hash.Hash
	out credentialSum
}

var processKey = sync.OnceValue(func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // does not fail: see crypto/rand
	return key
})

// sumCredential returns the HMAC-SHA256 of user NUL hashed NUL password. Names
// and hashes of our users hold no NUL, so no two of their sums are of the same
// text. The hash is in it so that a changed password is a changed sum.
func sumCredential(user, hashed, password []byte) credentialSum {
	s := sumPool.Get().(*summer)
	s.mac.Write(user)
	s.mac.Write(nul)
	s.mac.Write(hashed)
	s.mac.Write(nul)
	s.mac.Write(password)
	s.mac.Sum(s.out[:0])
	sum := s.out
	s.mac.Reset()
	sumPool.Put(s)
	return sum
}

var nul = []byte{0}

// remembered is the last password of a user that was right. It belongs to the user and
// the hash, lives as long as some configuration has them, and is no other user's to
// push out.
type remembered struct{ sum atomic.Pointer[credentialSum] }

func (r *remembered) is(sum *credentialSum) bool {
	if r == nil {
		return false
	}
	last := r.sum.Load()
	return last != nil && subtle.ConstantTimeCompare(last[:], sum[:]) == 1
}
