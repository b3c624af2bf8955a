package egress

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"hash"
	"maps"
	"net/netip"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
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
	queue  checkQueue
	nslots int64

	mu      sync.Mutex
	flights map[credentialSum]*flight                  // guarded by mu
	known   map[credentialSum]weak.Pointer[remembered] // guarded by mu: by user and hash
	purge   int                                        // guarded by mu: size of known at which the dead are removed
}

// flight is a check that runs or waits, and those who wait for it.
type flight struct {
	waiting int // guarded by the mu of the verifier
	cancel  context.CancelFunc
	done    chan struct{}
	ok      bool // set before done is closed, as err is
	err     error
}

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

func newVerifier(slots int) *verifier {
	return &verifier{
		queue:   checkQueue{free: int64(slots), networks: make(map[netip.Prefix]*checkNetwork)},
		nslots:  int64(slots),
		flights: make(map[credentialSum]*flight),
		known:   make(map[credentialSum]weak.Pointer[remembered]),
	}
}

// memory is what is remembered of a user with a hash, also from configurations before.
func (v *verifier) memory(user string, hashed []byte) *remembered {
	key := sumCredential([]byte(user), hashed, nil)
	v.mu.Lock()
	defer v.mu.Unlock()
	if r := v.known[key].Value(); r != nil {
		return r
	}
	if len(v.known) >= v.purge {
		maps.DeleteFunc(v.known, func(_ credentialSum, p weak.Pointer[remembered]) bool { return p.Value() == nil })
		v.purge = max(64, 2*len(v.known))
	}
	r := new(remembered)
	v.known[key] = weak.Make(r)
	return r
}

// verify returns the result of check for sum. Results are shared with those who wait
// for the same check; only success is remembered, in what is known of the user. A check
// for which nobody waits any more is cancelled: where ctx ends, or gone says so.
func (v *verifier) verify(ctx context.Context, known *remembered, sum credentialSum, check func(context.Context) (bool, error)) (bool, error) {
	gone := hungUp(ctx)
	if gone() {
		return false, context.Canceled
	}
	v.mu.Lock()
	f := v.flights[sum]
	switch {
	case f != nil:
	case known.is(&sum): // the flight before this one has landed since somebody looked
		v.mu.Unlock()
		return true, nil
	default:
		f = v.launch(ctx, known, sum, check)
	}
	f.waiting++
	v.mu.Unlock()
	left := f.landed(ctx, gone)
	if left == nil {
		return f.ok, f.err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.waiting--; f.waiting == 0 {
		f.cancel()
		if v.flights[sum] == f {
			delete(v.flights, sum)
		}
	}
	return false, left
}

// landed waits for the end of a check, or returns an error where nobody waits for it
// any more.
func (f *flight) landed(ctx context.Context, gone func() bool) error {
	looks := time.NewTicker(lookInterval)
	defer looks.Stop()
	for {
		select {
		case <-f.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-looks.C:
			if gone() {
				return context.Canceled
			}
		}
	}
}

// launch begins a check. It belongs to all who wait for it. v.mu is held.
func (v *verifier) launch(ctx context.Context, known *remembered, sum credentialSum, check func(context.Context) (bool, error)) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{cancel: cancel, done: make(chan struct{})}
	v.flights[sum] = f
	go func() {
		defer close(f.done)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				f.ok, f.err = false, fmt.Errorf("checking a password has panicked: %v", p)
			}
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.flights[sum] == f {
				delete(v.flights, sum)
			}
		}()
		if f.ok, f.err = check(ctx); f.ok && known != nil {
			known.sum.Store(&sum)
		}
	}()
	return f
}

// acquire waits for room for a check of that many threads. Only so many run at
// once that guessing passwords leaves CPUs for those who are logged in.
func (v *verifier) acquire(ctx context.Context, client string, threads int64) (release func(), err error) {
	n := min(threads, v.nslots)
	if err := v.queue.acquire(ctx, client, n); err != nil {
		return nil, err
	}
	return func() { v.queue.release(n) }, nil
}

// classLoader turns passwords of the configuration into credentials.
type classLoader struct {
	ctx      caddy.Context
	verifier *verifier
	classes  map[string]*hashClass // by algorithm and cost parameters
	ordered  []*hashClass          // the same, as they came
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
	cred := &credential{name: name, hash: []byte(hashed), class: class, known: l.verifier.memory(name, []byte(hashed))}
	_, _ = rand.Read(cred.sum[:])
	return cred, nil
}
