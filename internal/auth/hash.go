package auth

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// This file contains the reading of passwords and their hashes.

// Go allocates what the hash asks for and dies if it cannot. RFC 9106 §4
// recommends 2 GiB at most.
const maxArgon2MemoryKiB = 4 << 20

// classLoader turns passwords of the configuration into credentials.
type classLoader struct {
	hashes   func(algorithm string) (Comparer, error)
	verifier *verifier
	classes  map[string]*hashClass // by algorithm and cost parameters
	ordered  []*hashClass          // the same, as they came
}

var (
	bcryptHash = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$`)
	argon2Hash = regexp.MustCompile(`^\$argon2id\$v=19\$(m=([0-9]+),t=([0-9]+),p=([0-9]+))\$([^$]+)\$([^$]+)$`)

	// The second dollar sign tells a scheme from a password; more than one in
	// front is a hash that was escaped for a shell or a compose file.
	otherHash = regexp.MustCompile(`^(\$+[A-Za-z0-9-]+\$|(?i:\{(s?sha[0-9-]*|s?md5|crypt|pbkdf2[a-z0-9-]*|argon2[a-z]*|bcrypt)\}))`)
)

// CheckPassword refuses what is neither a password nor a hash that can be compared with.
// Its errors never quote it.
func CheckPassword(password string) error {
	switch {
	case password == "":
		return errors.New("the password is empty")
	case isBcrypt(password):
		if !bcryptHash.MatchString(password) {
			return errors.New("malformed bcrypt hash")
		}
	case isArgon2id(password):
		return checkArgon2id(password)
	case otherHash.MatchString(password):
		return errors.New("unsupported password hash; bcrypt ($2a$, $2b$, $2y$) and argon2id ($argon2id$) are supported")
	case len(password) > maxPasswordBytes:
		return fmt.Errorf("a password cannot be longer than %d bytes", maxPasswordBytes)
	}
	return nil
}

func isBcrypt(password string) bool   { return strings.HasPrefix(password, "$2") }
func isArgon2id(password string) bool { return strings.HasPrefix(password, "$argon2id$") }

func checkArgon2id(hashed string) error {
	h, ok := parseArgon2id(hashed)
	// A short key is not only weak: an empty one is equal to all others. No passes or
	// threads would panic when used.
	if !ok || len(h.key) < 16 || h.passes == 0 || h.threads == 0 {
		return errors.New("malformed argon2id hash")
	}
	if h.memory > maxArgon2MemoryKiB {
		return fmt.Errorf("an argon2id hash cannot ask for more than %d KiB of memory", maxArgon2MemoryKiB)
	}
	return nil
}

// credential returns what checks password, which is a password or its hash that has
// passed CheckPassword.
func (l *classLoader) credential(name, password string) (*credential, error) {
	switch {
	case isBcrypt(password):
		return l.bcrypt(name, password)
	case isArgon2id(password):
		return l.argon2id(name, password)
	}
	return &credential{name: name, sum: sumCredential([]byte(name), nil, []byte(password))}, nil
}

func (l *classLoader) bcrypt(name, hashed string) (*credential, error) {
	parts := bcryptHash.FindStringSubmatch(hashed)
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
	h, _ := parseArgon2id(hashed)
	cost := fmt.Sprintf("%s,%d", h.cost, len(h.key))
	return l.slow(name, hashed, "argon2id", cost, int64(h.threads), func() []byte {
		salt, fake := make([]byte, 16), make([]byte, len(h.key))
		_, _ = rand.Read(salt)
		_, _ = rand.Read(fake)
		b64 := base64.RawStdEncoding.EncodeToString
		return []byte("$argon2id$v=19$" + h.cost + "$" + b64(salt) + "$" + b64(fake))
	})
}

// argon2id is a hash of argon2id.
type argon2id struct {
	cost    string // as it is written
	memory  uint64 // KiB
	passes  uint64
	threads uint64
	key     []byte
}

// parseArgon2id reads a hash as it is encoded by the reference implementation of
// RFC 9106, and by `caddy hash-password`.
func parseArgon2id(hashed string) (h argon2id, ok bool) {
	parts := argon2Hash.FindStringSubmatch(hashed)
	if parts == nil {
		return h, false
	}
	b64 := base64.RawStdEncoding.Strict()
	var errs [5]error
	h.cost = parts[1]
	h.memory, errs[0] = strconv.ParseUint(parts[2], 10, 32)
	h.passes, errs[1] = strconv.ParseUint(parts[3], 10, 32)
	h.threads, errs[2] = strconv.ParseUint(parts[4], 10, 8)
	_, errs[3] = b64.DecodeString(parts[5]) // the salt
	h.key, errs[4] = b64.DecodeString(parts[6])
	return h, errors.Join(errs[:]...) == nil
}

// slow returns a credential of the class for algorithm and cost. The fake is
// of the same cost: the one which Caddy's modules offer has one fixed cost.
func (l *classLoader) slow(name, hashed, algorithm, cost string, threads int64, fake func() []byte) (*credential, error) {
	key := algorithm + " " + cost
	class := l.classes[key]
	if class == nil {
		comparer, err := l.hashes(algorithm)
		if err != nil {
			return nil, err
		}
		class = &hashClass{comparer: comparer, fake: fake(), threads: threads}
		l.classes[key] = class
		l.ordered = append(l.ordered, class)
	}
	cred := &credential{name: name, hash: []byte(hashed), class: class, known: l.verifier.memory(name, []byte(hashed))}
	_, _ = rand.Read(cred.sum[:])
	return cred, nil
}
