package egress

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"maps"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
)

// This file contains the checking of passwords: kept sums of checks that
// succeeded, a bound on slow checks at once, and the classes of slow work.

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

// sharedVerifier serves all handlers of the process, over reloads: neither the
// limit nor what is known about a password belongs to one configuration.
var sharedVerifier = newVerifier(max(1, runtime.GOMAXPROCS(0)/2))

// verifier runs the slow checks: few at a time, equal ones once, and those
// that succeeded not again.
type verifier struct {
	slots   *semaphore.Weighted
	nslots  int64
	flights singleflight.Group

	// The map is never changed, only replaced: a hit takes no lock and writes
	// nothing that other cores read. Copying it is small beside a slow hash.
	verified atomic.Pointer[map[credentialSum]struct{}]
	mu       sync.Mutex // held while verified is replaced
}

func newVerifier(slots int) *verifier {
	v := &verifier{slots: semaphore.NewWeighted(int64(slots)), nslots: int64(slots)}
	v.verified.Store(&map[credentialSum]struct{}{})
	return v
}

// verify returns the result of check for sum, from memory if it was true
// before. Failures are shared with those who wait for the same check, but not
// remembered: there is no end to them.
func (v *verifier) verify(sum credentialSum, check func() bool) bool {
	if _, ok := (*v.verified.Load())[sum]; ok {
		return true
	}
	result, _, _ := v.flights.Do(string(sum[:]), func() (any, error) {
		// The flight before this one may have landed since we looked.
		if _, ok := (*v.verified.Load())[sum]; ok {
			return true, nil
		}
		ok := check()
		if ok {
			v.remember(sum)
		}
		return ok, nil
	})
	return result.(bool)
}

// remember adds sum to the verified ones. A full map first loses a tenth of
// its entries, so that this happens seldom; which ones is left to the random
// start of map iteration.
func (v *verifier) remember(sum credentialSum) {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := maps.Clone(*v.verified.Load())
	if len(next) >= maxVerified {
		for old := range next {
			delete(next, old)
			if len(next) <= maxVerified-maxVerified/10 {
				break
			}
		}
	}
	next[sum] = struct{}{}
	v.verified.Store(&next)
}

// acquire waits for room for a check of that many threads. Only so many run at
// once that guessing passwords leaves CPUs for those who are logged in.
func (v *verifier) acquire(threads int64) (release func()) {
	n := min(threads, v.nslots)
	_ = v.slots.Acquire(context.Background(), n) // fails only with its context
	return func() { v.slots.Release(n) }
}

// classLoader turns passwords of the configuration into credentials.
type classLoader struct {
	ctx     caddy.Context
	classes map[string]*hashClass // by algorithm and cost parameters
	ordered []*hashClass          // the same, as they came
}

var (
	bcryptHash = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$`)
	argon2Hash = regexp.MustCompile(`^\$argon2id\$v=19\$(m=([0-9]+),t=([0-9]+),p=([0-9]+))\$[^$]+\$[^$]+$`)

	// The second dollar sign tells a scheme from a password; more than one in
	// front is a hash that was escaped for a shell or a compose file.
	otherHash = regexp.MustCompile(`^(\$+[A-Za-z0-9-]+\$|(?i:\{(s?sha[0-9-]*|s?md5|crypt|pbkdf2[a-z0-9-]*|argon2[a-z]*|bcrypt)\}))`)
)

// credential returns what checks password, which is a password or its hash.
// Its errors never quote password.
func (l *classLoader) credential(name, password string) (*credential, error) {
	switch {
	case password == "":
		return nil, fmt.Errorf("the password is empty")
	case strings.HasPrefix(password, "$2"):
		return l.bcrypt(name, password)
	case strings.HasPrefix(password, "$argon2id$"):
		return l.argon2id(name, password)
	case otherHash.MatchString(password):
		return nil, fmt.Errorf("unsupported password hash; bcrypt ($2a$, $2b$, $2y$) and argon2id ($argon2id$) are supported")
	case len(password) > maxPasswordBytes:
		return nil, fmt.Errorf("a password cannot be longer than %d bytes", maxPasswordBytes)
	}
	return &credential{name: name, sum: sumCredential([]byte(name), nil, []byte(password))}, nil
}

func (l *classLoader) bcrypt(name, hashed string) (*credential, error) {
	parts := bcryptHash.FindStringSubmatch(hashed)
	if parts == nil {
		return nil, fmt.Errorf("malformed bcrypt hash")
	}
	return l.slow(name, hashed, "bcrypt", parts[1], 1, func() []byte {
		const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
		fake := make([]byte, 53)
		_, _ = rand.Read(fake)
		for i := range fake {
			fake[i] = alphabet[fake[i]%64]
		}
		return append([]byte("$2a$"+parts[1]+"$"), fake...)
	})
}

func (l *classLoader) argon2id(name, hashed string) (*credential, error) {
	parts := argon2Hash.FindStringSubmatch(hashed)
	_, key, err := caddyauth.DecodeHash([]byte(hashed))
	// A short key is not only weak: an empty one is equal to all others.
	if parts == nil || err != nil || len(key) < 16 {
		return nil, fmt.Errorf("malformed argon2id hash")
	}
	// DecodeHash has checked that these are numbers in range.
	memory, _ := strconv.ParseUint(parts[2], 10, 32)
	passes, _ := strconv.ParseUint(parts[3], 10, 32)
	threads, _ := strconv.ParseUint(parts[4], 10, 8)
	if passes == 0 || threads == 0 {
		return nil, fmt.Errorf("malformed argon2id hash") // would panic when used
	}
	if memory > maxArgon2MemoryKiB {
		return nil, fmt.Errorf("an argon2id hash cannot ask for more than %d KiB of memory", maxArgon2MemoryKiB)
	}
	cost := fmt.Sprintf("%s,%d", parts[1], len(key))
	return l.slow(name, hashed, "argon2id", cost, int64(threads), func() []byte {
		salt, fake := make([]byte, 16), make([]byte, len(key))
		_, _ = rand.Read(salt)
		_, _ = rand.Read(fake)
		b64 := base64.RawStdEncoding.EncodeToString
		return []byte("$argon2id$v=19$" + parts[1] + "$" + b64(salt) + "$" + b64(fake))
	})
}

// slow returns a credential of the class for algorithm and cost. The fake is
// of the same cost: the one which Caddy's modules offer has one fixed cost.
func (l *classLoader) slow(name, hashed, algorithm, cost string, threads int64, fake func() []byte) (*credential, error) {
	key := algorithm + " " + cost
	class := l.classes[key]
	if class == nil {
		mod, err := l.ctx.LoadModuleByID("http.authentication.hashes."+algorithm, nil)
		if err != nil {
			return nil, fmt.Errorf("loading password hash module: %w", err)
		}
		comparer, ok := mod.(caddyauth.Comparer)
		if !ok {
			return nil, fmt.Errorf("password hash module %s compares nothing", algorithm)
		}
		class = &hashClass{comparer: comparer, fake: fake(), threads: threads}
		l.classes[key] = class
		l.ordered = append(l.ordered, class)
	}
	cred := &credential{name: name, hash: []byte(hashed), class: class}
	_, _ = rand.Read(cred.sum[:])
	return cred, nil
}
